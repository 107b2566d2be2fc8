// Numbers and names as people read them.

export function bytes(count: number | bigint): string {
  let size = Number(count);
  for (const unit of ["B", "kB", "MB"]) {
    if (size < 1000) return `${size < 10 && unit !== "B" ? size.toFixed(1) : Math.round(size)} ${unit}`;
    size /= 1000;
  }
  return `${size.toFixed(1)} GB`;
}

export function count(value: number | bigint): string {
  const size = Number(value);
  if (size >= 1e9) return `${(size / 1e9).toFixed(2)} G`;
  if (size >= 1e6) return `${(size / 1e6).toFixed(2)} M`;
  return size.toLocaleString("en");
}

export function percent(share: number): string {
  if (share === 0 || share === 1) return `${100 * share}%`;
  if (share > 0.9995 && share < 1) return "> 99.9%";
  if (share > 0 && share < 0.0005) return "< 0.1%";
  return `${(100 * share).toFixed(share < 0.0995 ? 1 : share > 0.9 ? 1 : 0)}%`;
}

export function precise(value: number, digits = 3): string {
  if (value === 0) return "0";
  return Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5 ? value.toExponential(1) : value.toPrecision(digits);
}

/** A first label of several synonyms. */
export function short(label: string): string {
  return label.split(",")[0]!.trim();
}

export function plural(value: number, one: string, many = `${one}s`): string {
  return `${value.toLocaleString("en")} ${value === 1 ? one : many}`;
}

export function duration(seconds: number): string {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}
