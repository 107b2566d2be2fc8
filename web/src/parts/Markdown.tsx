// As much of Markdown as docstrings have: headings, paragraphs, lists, code, emphasis, links. What is in a text
// stays text: no HTML and no picture comes of it. Underscores are never emphasis, since layers begin with them.

import type { ComponentChildren } from "preact";

const INLINE = /(`+)(.+?)\1|\*\*(.+?)\*\*|(?<!\w)\*([^\s*](?:[^*]*[^\s*])?)\*(?!\w)|\[([^\]]+)\]\((https?:\/\/[^\s)]+)\)/s;
const ITEM = /^\s*(?:[-*+]|(\d+)[.)])\s+/;

export function Markdown({ text }: { text: string }) {
  return <div class="prose">{blocksOf(text).map(block)}</div>;
}

/** Paragraphs, each a list of lines; what stands between fences is one with its fence. */
function blocksOf(text: string): string[][] {
  const blocks: string[][] = [];
  let open: string[] | undefined;
  let fenced = false;
  for (const line of text.split(/\r?\n/)) {
    const fence = /^\s*```/.test(line);
    const ends = !fenced && (line.trim() === "" || /^#{1,6}\s/.test(line) || fence || (ITEM.test(line) && open && !ITEM.test(open[0]!)));
    if (ends) open = undefined;
    if (fence) fenced = !fenced;
    if (line.trim() === "" && !fenced) continue;
    if (open) open.push(line);
    else blocks.push((open = [line]));
    if (/^#{1,6}\s/.test(line) || (fence && !fenced)) open = undefined;
  }
  return blocks;
}

function block(lines: string[], key: number) {
  const first = lines[0]!;
  if (/^\s*```/.test(first)) return <pre key={key}>{lines.slice(1).filter((line) => !/^\s*```/.test(line)).join("\n")}</pre>;
  if (/^#{1,6}\s/.test(first)) return <h3 key={key}>{inline(first.replace(/^#+\s+/, ""))}</h3>;
  const found = ITEM.exec(first);
  if (!found) return <p key={key}>{inline(lines.join(" "))}</p>;
  const items = itemsOf(lines).map((item, index) => <li key={index}>{inline(item)}</li>);
  return found[1] ? (
    <ol key={key} start={Number(found[1])}>
      {items}
    </ol>
  ) : (
    <ul key={key}>{items}</ul>
  );
}

/** Items, with the lines that go on from the one before. */
function itemsOf(lines: string[]): string[] {
  const items: string[] = [];
  for (const line of lines) {
    if (ITEM.test(line)) items.push(line.replace(ITEM, ""));
    else items.push(`${items.pop()} ${line.trim()}`);
  }
  return items;
}

function inline(text: string): ComponentChildren {
  const found = INLINE.exec(text);
  if (!found) return text;
  const [all, , code, strong, emphasis, words, address] = found;
  return (
    <>
      {text.slice(0, found.index)}
      {code !== undefined ? (
        <code>{code.trim()}</code>
      ) : strong !== undefined ? (
        <strong>{inline(strong)}</strong>
      ) : emphasis !== undefined ? (
        <em>{inline(emphasis)}</em>
      ) : (
        <a href={address} target="_blank" rel="noopener noreferrer">
          {words}
        </a>
      )}
      {inline(text.slice(found.index + all.length))}
    </>
  );
}
