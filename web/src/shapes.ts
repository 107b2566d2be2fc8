// Extents such as `(height//2)`, with numbers for names. No `eval`: the page's policy forbids it.

const TOKENS = /\s*(\d+|[A-Za-z_]\w*|\/\/|[-+*()])\s*/y;

function tokens(text: string): string[] | undefined {
  const found: string[] = [];
  TOKENS.lastIndex = 0;
  while (TOKENS.lastIndex < text.length) {
    const match = TOKENS.exec(text);
    if (!match) return undefined;
    found.push(match[1]!);
  }
  return found;
}

/** The number that an extent is, or the extent as it was told where that can't be known. */
export function evaluate(extent: string, known: ReadonlyMap<string, number>): string {
  const left = tokens(extent);
  if (!left) return extent;

  function factor(): number {
    const token = left!.shift();
    if (token === "(") {
      const value = sum();
      return left!.shift() === ")" ? value : Number.NaN;
    }
    if (token === "-") return -factor();
    return token !== undefined && /^\d+$/.test(token) ? Number(token) : (known.get(token ?? "") ?? Number.NaN);
  }

  function product(): number {
    let value = factor();
    while (left![0] === "*" || left![0] === "//") {
      value = left!.shift() === "*" ? value * factor() : Math.floor(value / factor());
    }
    return value;
  }

  function sum(): number {
    let value = product();
    while (left![0] === "+" || left![0] === "-") value += left!.shift() === "+" ? product() : -product();
    return value;
  }

  const value = sum();
  return left.length === 0 && Number.isFinite(value) ? String(value) : extent;
}
