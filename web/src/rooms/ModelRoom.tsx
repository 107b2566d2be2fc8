import { useState } from "preact/hooks";

import type { RoomProps } from "../App";
import { models } from "../api/clients";
import { type Failure, toFailure } from "../api/failure";
import type { Layer, Model, ParityCertificate, ReceptiveField } from "../generated/endoscope/v1/model_pb";
import { GraphView } from "../graph/GraphView";
import { shapeOf } from "../models";
import { Banner, Waiting } from "../parts/Banner";
import { link } from "../router";
import { bytes, count, plural, precise } from "../words";

export function ModelRoom({ id, model }: RoomProps) {
  return (
    <div class="column wide">
      <header class="head">
        <h1>{model.title || id}</h1>
        <Facts model={model} />
        {model.preprocessingAssumed && (
          <p class="small warn">
            Nobody said how a picture becomes this model's input; it was assumed from the input's shape, so results may be
            wrong. A card beside the file says it.
          </p>
        )}
      </header>
      <div class="model-halves">
        <section aria-labelledby="graph-title">
          <h2 id="graph-title">Graph</h2>
          <GraphView id={id} model={model} />
        </section>
        <section aria-labelledby="layers-title">
          <h2 id="layers-title">Layers</h2>
          <Layers id={id} model={model} />
        </section>
      </div>
      <Certificate id={id} model={model} />
    </div>
  );
}

function Facts({ model }: { model: Model }) {
  const parameters = model.layers.reduce((sum, layer) => sum + Number(layer.parameterCount), 0);
  const { height, width } = model.preprocessing ?? {};
  const facts: [string, string][] = [
    ["Parameters", count(parameters)],
    ["Layers", String(model.layers.length)],
    ["Classes", model.classCount ? String(model.classCount) : "none"],
    ["Pictures", height && width ? `${width} × ${height}` : "none"],
    ["Size", bytes(model.sizeBytes)],
    ["Operators", Object.entries(model.opsets).map(([domain, version]) => `${domain} ${version}`).join(", ")],
    ["Producer", model.producer],
    ["Licence", model.license],
    ["Fingerprint", model.fingerprint.slice(0, 12)],
  ];
  return (
    <dl class="facts">
      {facts
        .filter(([, value]) => value)
        .map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd class="numbers" title={name === "Fingerprint" ? model.fingerprint : undefined}>
              {value}
            </dd>
          </div>
        ))}
    </dl>
  );
}

export function sees(field: ReceptiveField | undefined): string {
  if (!field) return "";
  if (field.wholeImage) return "all";
  const side = (size: bigint) => (size ? String(size) : "all");
  const [height, width] = [side(field.sizeHeight), side(field.sizeWidth)];
  return height === width ? `${height} px` : `${width} × ${height} px`;
}

function Layers({ id, model }: { id: string; model: Model }) {
  const [filter, setFilter] = useState("");
  const wanted = filter.trim().toLowerCase();
  const shown = model.layers.filter(
    (layer) => !wanted || layer.alias.toLowerCase().includes(wanted) || layer.opType.toLowerCase().includes(wanted),
  );
  return (
    <>
      <input
        class="input"
        type="search"
        aria-label="Find a layer by name or operator"
        placeholder="Find a layer"
        value={filter}
        onInput={(event) => setFilter(event.currentTarget.value)}
      />
      <div class="layers" tabIndex={0} role="region" aria-label="The layers">
        <table>
          <thead>
            <tr>
              <th scope="col">Layer</th>
              <th scope="col">Output</th>
              <th scope="col" title="How much of the picture one unit sees">
                Sees
              </th>
              <th scope="col">Parameters</th>
            </tr>
          </thead>
          <tbody>
            {shown.map((layer) => (
              <LayerRow key={layer.output} id={id} model={model} layer={layer} />
            ))}
          </tbody>
        </table>
        {shown.length === 0 && <p class="muted small pad">No layer is called that.</p>}
      </div>
    </>
  );
}

function LayerRow({ id, model, layer }: { id: string; model: Model; layer: Layer }) {
  return (
    <tr>
      <th scope="row">
        <a href={link(id, "layer", layer.alias)}>{layer.alias}</a>
        <span class="muted small"> {layer.opType}</span>
      </th>
      <td class="numbers">{shapeOf(model, layer.shape).join(" × ")}</td>
      <td class="numbers">{sees(layer.receptiveField)}</td>
      <td class="numbers">{layer.parameterCount ? count(layer.parameterCount) : ""}</td>
    </tr>
  );
}

function Certificate({ id, model }: { id: string; model: Model }) {
  const [certificate, setCertificate] = useState<ParityCertificate | undefined>(model.certificate);
  const [busy, setBusy] = useState(false);
  const [failure, setFailure] = useState<Failure>();

  async function verify() {
    setBusy(true);
    setFailure(undefined);
    try {
      const answer = await models.verifyModel({ name: `models/${id}` });
      setCertificate(answer.certificate);
    } catch (error) {
      setFailure(toFailure(error));
    }
    setBusy(false);
  }

  return (
    <section class="certificate" aria-labelledby="certificate-title">
      <div class="section-head">
        <h2 id="certificate-title">Parity certificate</h2>
        <button type="button" class="button quiet" disabled={busy} onClick={() => void verify()}>
          {certificate ? "Verify again" : "Verify now"}
        </button>
      </div>
      <Banner failure={failure} />
      {busy && <Waiting what="Computing each value of the graph with both engines" />}
      {!busy && !certificate && (
        <p class="muted">
          Not made yet. Both engines compute each value of the graph from the same inputs; methods that need gradients
          are refused to a model on which they differ. It is made when a gradient is first asked for, or now.
        </p>
      )}
      {certificate && <Findings certificate={certificate} model={model} />}
    </section>
  );
}

function Findings({ certificate, model }: { certificate: ParityCertificate; model: Model }) {
  const { passed, comparedCount, tolerance, worstRelative, worstValue, worstOpType } = certificate;
  return (
    <>
      <p>
        <span class={passed ? "good" : "bad"}>
          <span aria-hidden="true">{passed ? "✓ " : "✗ "}</span>
          {passed ? "Both engines agree" : "The engines differ"}
        </span>{" "}
        on {plural(comparedCount, "value")}, within {tolerance}. The largest relative difference is{" "}
        <span class="numbers">{precise(worstRelative)}</span>, at <code>{worstValue}</code> ({worstOpType}).
      </p>
      {certificate.firstDifference && (
        <p>
          The first value that differs: <code>{certificate.firstDifference}</code>.
        </p>
      )}
      <Differences certificate={certificate} />
      {certificate.notes.map((note) => (
        <p key={note} class="small muted">
          {note}
        </p>
      ))}
      {model.unsupportedOperators.length > 0 && (
        <p class="small warn">
          Without a mirror: {[...new Set(model.unsupportedOperators.map((operator) => operator.opType))].join(", ")}.
        </p>
      )}
    </>
  );
}

/** The relative difference of each value, in the order of computation, on a logarithmic scale. */
function Differences({ certificate }: { certificate: ParityCertificate }) {
  const { values, tolerance } = certificate;
  if (values.length === 0) return null;
  const [low, high] = [-10, Math.max(-2, Math.ceil(Math.log10(Math.max(certificate.worstRelative, 1e-9))))];
  const height = (relative: number) => (Math.max(0, Math.log10(Math.max(relative, 1e-12)) - low) / (high - low)) * 100;
  return (
    <figure class="differences">
      <div class="difference-bars" role="img" aria-label="Relative difference of each value, in the order of computation">
        {values.map((value) => (
          <span
            key={value.value}
            class={value.relative > tolerance ? "over" : ""}
            style={{ height: `${Math.max(1.5, height(value.relative))}%` }}
            title={`${value.value} (${value.opType}): ${precise(value.relative)}`}
          />
        ))}
        <i style={{ bottom: `${height(tolerance)}%` }} title={`tolerance ${precise(tolerance)}`} />
      </div>
      <figcaption class="small muted">
        Relative difference of each value, first to last, from 10<sup>{low}</sup> to 10<sup>{high}</sup>; the line is the
        tolerance.
      </figcaption>
    </figure>
  );
}
