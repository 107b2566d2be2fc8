import { useRef, useState } from "preact/hooks";

import { datasets } from "../api/clients";
import { type Failure, isStop, toFailure } from "../api/failure";
import { field, type Piece, send, whole } from "../api/upload";
import { changes, useDatasets } from "../datasets";
import {
  type Dataset,
  DatasetService,
  UploadedImageSchema,
  UploadImagesRequestSchema,
} from "../generated/endoscope/v1/dataset_pb";
import { ImageSchema } from "../generated/endoscope/v1/image_pb";
import { idOf } from "../models";
import { Banner, Empty, Waiting } from "../parts/Banner";
import { Drop } from "../parts/Drop";
import { Sending } from "../parts/Sending";
import { percent, plural } from "../words";

export function Datasets() {
  const list = useDatasets();
  return (
    <div class="column">
      <header class="head">
        <h1>Datasets</h1>
        <p class="lead muted">
          Pictures that a network is shown: to find what a channel answers to, which pictures it finds alike, and how it
          groups them. Folders are labels.
        </p>
      </header>
      <Banner failure={list.failure} retry={() => changes.set(changes.get() + 1)} />
      {!list.value && !list.failure && <Waiting what="Asking for the datasets" />}
      {list.value?.length === 0 && <Empty title="No dataset yet">Drop a few dozen pictures, or a folder of them, below.</Empty>}
      <ul class="cards">
        {list.value?.map((dataset) => (
          <DatasetCard key={dataset.name} dataset={dataset} />
        ))}
      </ul>
      <Upload />
      <FromPath />
    </div>
  );
}

function DatasetCard({ dataset }: { dataset: Dataset }) {
  const id = idOf(dataset.name);
  const [asked, setAsked] = useState(false);
  const [failure, setFailure] = useState<Failure>();
  const labels = dataset.labels.slice(0, 6).join(", ") + (dataset.labels.length > 6 ? ", …" : "");

  async function remove() {
    try {
      await datasets.deleteDataset({ name: dataset.name });
      changes.set(changes.get() + 1);
    } catch (error) {
      setFailure(toFailure(error));
      setAsked(false);
    }
  }

  return (
    <li class="card plain">
      <span class="card-title">{id}</span>
      <span class="small muted">
        {plural(Number(dataset.itemCount), "picture")}
        {dataset.labels.length > 0 && `  ·  ${plural(dataset.labels.length, "label")}: ${labels}`}
      </span>
      {dataset.path && <span class="small muted mono">{dataset.path}</span>}
      {dataset.skipped.length > 0 && (
        <details class="small muted">
          <summary>{plural(dataset.skipped.length, "file")} left out</summary>
          <ul>
            {dataset.skipped.slice(0, 20).map((item) => (
              <li key={item.itemName}>
                {item.itemName}: {item.reason}
              </li>
            ))}
          </ul>
        </details>
      )}
      <Banner failure={failure} />
      <span class="card-acts">
        {asked ? (
          <>
            <button type="button" class="button stop" onClick={() => void remove()}>
              Delete {id}
            </button>
            <button type="button" class="button quiet" onClick={() => setAsked(false)}>
              Keep it
            </button>
          </>
        ) : (
          <button type="button" class="button quiet" aria-label={`Delete ${id}`} onClick={() => setAsked(true)}>
            Delete
          </button>
        )}
      </span>
    </li>
  );
}

interface Found {
  name: string;
  file: File;
}

/** Files that were dropped, folders included. */
async function dropped(transfer: DataTransfer): Promise<Found[]> {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry()).filter((entry) => entry !== null);
  const found: Found[] = [];
  async function walk(entry: FileSystemEntry, path: string): Promise<void> {
    if (entry.name.startsWith(".")) return;
    if (entry.isFile) {
      const file = await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject));
      found.push({ name: path + entry.name, file });
      return;
    }
    const reader = (entry as FileSystemDirectoryEntry).createReader();
    for (;;) {
      const some = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
      if (some.length === 0) return;
      for (const inner of some) await walk(inner, `${path}${entry.name}/`);
    }
  }
  for (const entry of entries) await walk(entry, "");
  return found;
}

/** Of a single folder, what is in it; its own name is no label. */
function unwrapped(found: Found[]): Found[] {
  const first = found[0]?.name.split("/")[0];
  const single = found.length > 0 && found.every(({ name }) => name.startsWith(`${first}/`) && name.split("/").length > 2);
  return single ? found.map(({ name, file }) => ({ name: name.slice(first!.length + 1), file })) : found;
}

function messageOf({ name, file }: Found): Piece {
  const image = field(ImageSchema.field.encoded.number, file);
  const { itemName, image: picture } = UploadedImageSchema.field;
  const uploaded = [field(itemName.number, name), field(picture.number, [image])];
  return field(UploadImagesRequestSchema.field.image.number, uploaded);
}

function Upload() {
  const [name, setName] = useState("pictures");
  const [sent, setSent] = useState<{ count: number; share: number }>();
  const [failure, setFailure] = useState<Failure>();
  const controller = useRef<AbortController>(undefined);

  async function upload(found: Found[]) {
    const pictures = unwrapped(found.filter(({ file }) => file.type.startsWith("image/")));
    setFailure(undefined);
    if (pictures.length === 0) {
      setFailure({ title: "There is no picture", words: `None of the ${plural(found.length, "file")} is one.` });
      return;
    }
    controller.current = new AbortController();
    const header = whole(UploadImagesRequestSchema, { part: { case: "header", value: { datasetId: name } } });
    try {
      await send(
        DatasetService.method.uploadImages,
        [header, ...pictures.map(messageOf)],
        (share) => setSent({ count: pictures.length, share }),
        controller.current.signal,
      );
    } catch (error) {
      if (!isStop(error)) setFailure(toFailure(error));
    }
    setSent(undefined);
    changes.set(changes.get() + 1);
  }

  const chosen = (files: FileList) =>
    void upload([...files].map((file) => ({ name: file.webkitRelativePath || file.name, file })));

  return (
    <section class="add" aria-labelledby="add-title">
      <h2 id="add-title">Add pictures</h2>
      <div class="field">
        <label class="label" for="dataset-name">
          Name of the dataset
        </label>
        <input
          id="dataset-name"
          class="input"
          value={name}
          required
          pattern="[A-Za-z0-9][A-Za-z0-9._\-]*"
          onInput={(event) => setName(event.currentTarget.value)}
        />
      </div>
      <Drop
        class="wide"
        accept="image/*"
        multiple
        disabled={sent !== undefined}
        name={{ "aria-label": "Add pictures to the dataset" }}
        onDrop={(transfer) => void dropped(transfer).then(upload)}
        onPick={chosen}
      >
        <span>
          Drop pictures or folders here, or <span class="as-link">choose some</span>
        </span>
        <span class="small muted">They are added to “{name}”, which is made if it is not there.</span>
      </Drop>
      {sent && (
        <Sending
          share={sent.share}
          words={sent.share < 1 ? `Sending ${plural(sent.count, "picture")}` : "Storing them"}
          numbers={percent(sent.share)}
          onStop={() => controller.current?.abort()}
        />
      )}
      <Banner failure={failure} />
    </section>
  );
}

function FromPath() {
  const [name, setName] = useState("");
  const [path, setPath] = useState("");
  const [failure, setFailure] = useState<Failure>();

  async function make() {
    setFailure(undefined);
    try {
      await datasets.createDataset({ datasetId: name, path });
      setName("");
      setPath("");
      changes.set(changes.get() + 1);
    } catch (error) {
      setFailure(toFailure(error));
    }
  }

  return (
    <details class="more">
      <summary class="small">Pictures that are on the server already</summary>
      <form
        class="more-body"
        onSubmit={(event) => {
          event.preventDefault();
          void make();
        }}
      >
        <div class="field">
          <label class="label" for="path-name">
            Name
          </label>
          <input id="path-name" class="input" required value={name} onInput={(event) => setName(event.currentTarget.value)} />
        </div>
        <div class="field">
          <label class="label" for="path">
            Folder, zip or Parquet file, below a root that the server was started with
          </label>
          <input id="path" class="input mono" required value={path} onInput={(event) => setPath(event.currentTarget.value)} />
        </div>
        <button class="button" type="submit">
          Make the dataset
        </button>
        <Banner failure={failure} />
      </form>
    </details>
  );
}
