// Colours of labels: told apart on light and on dark paper.

const FIRST = ["#4a63d8", "#d8622b", "#1f9e77", "#c23b80", "#b58a00", "#6f4bb5", "#2b93c9", "#9b5b3c", "#6a9a2b", "#7a7f8a"];

export function colorOf(index: number): string {
  const given = FIRST[index];
  if (given) return given;
  // The golden angle keeps any number of hues apart.
  const hue = (index * 137.508) % 360;
  return hsl(hue, 0.5, 0.5);
}

function hsl(hue: number, saturation: number, lightness: number): string {
  const part = (offset: number) => {
    const at = (offset + hue / 30) % 12;
    const value = lightness - saturation * Math.min(lightness, 1 - lightness) * Math.max(-1, Math.min(at - 3, 9 - at, 1));
    return Math.round(255 * value).toString(16).padStart(2, "0");
  };
  return `#${part(0)}${part(8)}${part(4)}`;
}

export function rgb(hex: string): [number, number, number] {
  const value = Number.parseInt(hex.slice(1), 16);
  return [((value >> 16) & 255) / 255, ((value >> 8) & 255) / 255, (value & 255) / 255];
}
