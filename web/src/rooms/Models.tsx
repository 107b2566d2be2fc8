import { useRef, useState } from "preact/hooks";

import { models } from "../api/clients";
import { type Failure, isStop, toFailure } from "../api/failure";
import { everyPage } from "../api/pages";
import { field, send, whole } from "../api/upload";
import { type Model, ModelService, ModelState, UploadModelRequestSchema } from "../generated/endoscope/v1/model_pb";
import { forgetModel, idOf, useFetched } from "../models";
import { Banner, Empty, Waiting } from "../parts/Banner";
import { Drop } from "../parts/Drop";
import { Sending } from "../parts/Sending";
import { link } from "../router";
import { bytes, percent } from "../words";

export function Models() {
  const [version, setVersion] = useState(0);
  const list = useFetched(() => everyPage(models.listModels, (page) => page.models), [version]);
  return (
    <div class="column">
      <header class="head">
        <h1>Models</h1>
        <p class="lead muted">
          Any neural network that was exported to ONNX. Pick one and look inside: what its layers answer to, what it
          dreams of, what fools it, and what it remembers of a picture.
        </p>
      </header>
      <Banner failure={list.failure} retry={() => setVersion(version + 1)} />
      {!list.value && !list.failure && <Waiting what="Asking for the models" />}
      {list.value?.length === 0 && (
        <Empty title="No model yet">Drop an .onnx file below, or start the server with a folder of them.</Empty>
      )}
      <ul class="cards">
        {list.value?.map((model) => (
          <ModelCard key={model.name} model={model} />
        ))}
      </ul>
      <Upload onDone={() => setVersion(version + 1)} />
    </div>
  );
}

function ModelCard({ model }: { model: Model }) {
  const id = idOf(model.name);
  const parts = [
    bytes(model.sizeBytes),
    model.classCount ? `${model.classCount.toLocaleString("en")} classes` : "",
    model.state === ModelState.LOADED ? "in memory" : "",
  ];
  return (
    <li>
      <a class="card" href={link(id)}>
        <span class="card-title">{model.title || id}</span>
        {model.title && <span class="mono small muted">{id}</span>}
        <span class="small muted">{parts.filter(Boolean).join("  ·  ")}</span>
      </a>
    </li>
  );
}

const CHUNK = 2 ** 21;

function Upload({ onDone }: { onDone: () => void }) {
  const [sent, setSent] = useState<{ id: string; share: number }>();
  const [failure, setFailure] = useState<Failure>();
  const controller = useRef<AbortController>(undefined);

  async function upload(file: File | undefined) {
    if (!file) return;
    setFailure(undefined);
    if (!/\.onnx$/i.test(file.name)) {
      setFailure({ title: "That is no ONNX file", words: `“${file.name}” does not end with .onnx.` });
      return;
    }
    const id = file.name.replace(/\.onnx$/i, "").replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[^A-Za-z0-9]+/, "");
    controller.current = new AbortController();
    setSent({ id, share: 0 });
    const messages = [
      whole(UploadModelRequestSchema, {
        part: { case: "header", value: { modelId: id, sizeBytes: BigInt(file.size) } },
      }),
    ];
    const { number } = UploadModelRequestSchema.field.chunk;
    for (let at = 0; at < file.size; at += CHUNK) messages.push(field(number, file.slice(at, at + CHUNK)));
    try {
      const told = (share: number) => setSent({ id, share });
      await send(ModelService.method.uploadModel, messages, told, controller.current.signal);
      forgetModel(id);
      onDone();
    } catch (error) {
      if (!isStop(error)) setFailure(toFailure(error));
    }
    setSent(undefined);
  }

  return (
    <section aria-label="Add a model">
      <Drop
        class="wide"
        accept=".onnx"
        disabled={sent !== undefined}
        name={{ "aria-label": "Add a model: an ONNX file" }}
        onDrop={(transfer) => void upload(transfer.files[0])}
        onPick={(files) => void upload(files[0])}
      >
        <span>
          Drop an <code>.onnx</code> file here, or <span class="as-link">choose one</span>
        </span>
        <span class="small muted">
          It is verified as it arrives: each of its values, mirror against ONNX Runtime.
        </span>
      </Drop>
      {sent && (
        <Sending
          class="spaced"
          share={sent.share}
          words={sent.share < 1 ? `Sending ${sent.id}` : `Verifying ${sent.id}`}
          numbers={sent.share < 1 ? percent(sent.share) : ""}
          onStop={() => controller.current?.abort()}
        />
      )}
      <Banner failure={failure} />
    </section>
  );
}
