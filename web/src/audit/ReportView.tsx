// The report's own page, shown within this one. It is a whole document with styles of its own, which the page's
// policy forbids in markup, in a frame too, but not where a script sets them: so its sheet becomes a constructed
// one, its styles in attributes are set one by one, and its body is a shadow tree.

import { useLayoutEffect, useMemo, useRef } from "preact/hooks";

import { isDark, theme } from "../theme";

const DARK = "(prefers-color-scheme: dark)";

/** The report's styles: what holds for its root holds for the host, and dark is what the page says is dark. */
function sheetOf(text: string, dark: boolean): CSSStyleSheet {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(text.replaceAll(":root", ":host"));
  for (const rule of sheet.cssRules) {
    if (rule instanceof CSSMediaRule && rule.conditionText === DARK) rule.media.mediaText = dark ? "all" : "not all";
  }
  return sheet;
}

/** The report in two: its sheet, and the page without styles, those of its elements kept as data. */
function split(html: string): { styles: string; page: Document } {
  const [whole, styles = ""] = /<style>(.*?)<\/style>/s.exec(html) ?? [""];
  // Quotation marks in text are escaped, so this is found in tags only.
  const plain = html.replace(whole, "").replaceAll(' style="', ' data-style="');
  return { styles, page: new DOMParser().parseFromString(plain, "text/html") };
}

function bodyOf(page: Document): HTMLElement {
  const body = document.importNode(page.body, true);
  // The page has a banner, a main part and a footer already.
  for (const landmark of body.querySelectorAll("header, main, footer")) {
    const plain = document.createElement("div");
    plain.className = `${landmark.localName} ${landmark.className}`.trim();
    plain.append(...landmark.childNodes);
    landmark.replaceWith(plain);
  }
  for (const element of body.querySelectorAll<HTMLElement | SVGElement>("[data-style]")) {
    element.style.cssText = element.dataset["style"]!;
    delete element.dataset["style"];
  }
  return body;
}

/** Links within the report go to its chapters; the address stays the room's. */
function follow(event: MouseEvent): void {
  const link = (event.target as Element).closest<HTMLAnchorElement>("a[href^='#']");
  if (!link) return;
  event.preventDefault();
  const chapter = (link.getRootNode() as ShadowRoot).querySelector<HTMLElement>(link.getAttribute("href")!);
  if (!chapter) return;
  chapter.tabIndex = -1;
  chapter.focus({ preventScroll: true });
  chapter.scrollIntoView();
}

export function ReportView({ html }: { html: string }) {
  const host = useRef<HTMLDivElement>(null);
  const { styles, page } = useMemo(() => split(html), [html]);
  const now = theme.use();

  // Before the browser paints: the page never shows a report that is empty or undressed.
  useLayoutEffect(() => {
    const root = host.current!.shadowRoot ?? host.current!.attachShadow({ mode: "open" });
    root.addEventListener("click", follow as EventListener);
    root.replaceChildren(bodyOf(page));
  }, [page]);

  useLayoutEffect(() => {
    const root = host.current!.shadowRoot!;
    const scheme = matchMedia(DARK);
    const dress = () => {
      root.adoptedStyleSheets = [sheetOf(styles, isDark())];
    };
    dress();
    scheme.addEventListener("change", dress);
    return () => scheme.removeEventListener("change", dress);
  }, [styles, now]);

  return <div class="report" ref={host} />;
}
