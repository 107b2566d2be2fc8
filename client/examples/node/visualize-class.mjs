// Visualises a class: node visualize-class.mjs [--target HOST:PORT] [--model NAME] [--class INDEX]
// [--steps COUNT] [--output FILE]. The messages come from the .proto files; no code is generated.

import { writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const PROTOS = fileURLToPath(new URL("../../../protos", import.meta.url));
const MAX_MESSAGE_BYTES = 256 * 2 ** 20;

const { values: options } = parseArgs({
  options: {
    target: { type: "string", default: "127.0.0.1:50051" },
    model: { type: "string", default: "efficientnet-lite0" },
    class: { type: "string", default: "967" },
    steps: { type: "string", default: "64" },
    output: { type: "string", default: "class.png" },
  },
});

const definition = loadSync("endoscope/v1/gradient.proto", {
  includeDirs: [PROTOS],
  enums: String,
  longs: Number,
  oneofs: true,
});
const { GradientService } = grpc.loadPackageDefinition(definition).endoscope.v1;
const client = new GradientService(options.target, grpc.credentials.createInsecure(), {
  "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
});

const showStep = ({ index, total, losses }) => {
  const terms = Object.entries(losses).map(([name, value]) => `${name} ${value.toFixed(3)}`);
  process.stderr.write(`step ${index} of ${total}: ${terms.join(", ")}\n`);
};

const visualize = async () => {
  const stream = client.VisualizeClass({
    model: `models/${options.model}`,
    classes: [Number(options.class)],
    steps: Number(options.steps),
    options: { preview_every: 0 },
  });
  for await (const response of stream) {
    if (response.event === "header") process.stderr.write(`${response.header.job}\n`);
    if (response.event === "step") showStep(response.step);
    if (response.event === "result") return response.result.pictures[0];
  }
  throw new Error("the stream ended without a result");
};

try {
  const { image, score, classification } = await visualize();
  await writeFile(options.output, image.encoded);
  const [first] = classification.top;
  console.log(`${options.output}: ${score.label}, logit ${score.logit.toFixed(2)}; taken for ${first.label}`);
} catch (error) {
  console.error(error.details ?? error.message);
  process.exitCode = 1;
} finally {
  client.close();
}
