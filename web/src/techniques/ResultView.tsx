import type { Table, TechniqueResult } from "../generated/endoscope/v1/technique_pb";
import { Markdown } from "../parts/Markdown";
import { Download, Picture } from "../parts/Picture";
import { Plot } from "../parts/Plot";
import { precise } from "../words";
import { sentence } from "./schema";

interface Props {
  /** The technique's name, of which names of files are made. */
  name: string;
  result: TechniqueResult;
}

/** What any technique gives: pictures, numbers, curves, tables, text. */
export function ResultView({ name, result: { pictures, numbers, series, tables, text } }: Props) {
  // A map has no order of its own.
  const measured = Object.entries(numbers).sort(([one], [other]) => one.localeCompare(other));
  return (
    <>
      {pictures.length > 0 && (
        <ol class={`results ${pictures.length === 1 ? "single" : ""}`} aria-label="Pictures">
          {pictures.map((picture) => (
            <li key={picture.name}>
              <figure>
                <Picture image={picture.image} alt={picture.caption || picture.name} crisp={(picture.image?.width ?? 0) < 96} />
                <figcaption class="small">
                  <Caption name={picture.name} caption={picture.caption} />
                  <Download image={picture.image} name={`${name}-${fileName(picture.name)}`} among={picture.name} />
                </figcaption>
              </figure>
            </li>
          ))}
        </ol>
      )}
      {measured.length > 0 && (
        <dl class="facts">
          {measured.map(([key, value]) => (
            <div key={key}>
              <dt>{sentence(key)}</dt>
              <dd class="numbers">{shown(value)}</dd>
            </div>
          ))}
        </dl>
      )}
      {text && <Markdown text={text} />}
      {series.length > 0 && (
        <section class="plots" aria-label="Curves">
          {series.map((curve) => (
            <Plot key={curve.name} title={curve.name} values={curve.values} positions={curve.positions} />
          ))}
        </section>
      )}
      {tables.map((table) => (
        <TableView key={table.name} table={table} />
      ))}
    </>
  );
}

/** The name and what is said of the picture, the name once. */
function Caption({ name, caption }: { name: string; caption: string }) {
  const rest = caption.startsWith(name) ? caption.slice(name.length).replace(/^[:,\s]+/, "") : caption;
  return (
    <span>
      <strong>{name}</strong> <span class="muted numbers">{rest}</span>
    </span>
  );
}

function TableView({ table: { name, columns } }: { table: Table }) {
  const rows = Math.max(0, ...columns.map((column) => Math.max(column.numbers.length, column.texts.length)));
  return (
    <figure class="table">
      <figcaption>
        <h3>{sentence(name)}</h3>
      </figcaption>
      <div tabIndex={0} role="region" aria-label={`The table ${name}`}>
        <table>
          <thead>
            <tr>
              {columns.map((column) => (
                <th key={column.name} scope="col" class={column.texts.length ? "" : "number"}>
                  {sentence(column.name)}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {Array.from({ length: rows }, (_, row) => (
              <tr key={row}>
                {columns.map(({ name, numbers, texts }) => (
                  <td key={name} class={texts.length ? "" : "number numbers"}>
                    {texts[row] ?? (numbers[row] === undefined ? "" : shown(numbers[row]))}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </figure>
  );
}

function shown(value: number): string {
  return Number.isInteger(value) ? value.toLocaleString("en") : precise(value, 4);
}

function fileName(text: string): string {
  return text.replaceAll(/[^\w.-]+/g, "-").replaceAll(/^[-.]+|[-.]+$/g, "") || "picture";
}
