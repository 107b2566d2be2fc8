import type { ComponentType } from "preact";
import { useEffect } from "preact/hooks";

import { refused } from "./api/access";
import type { Model } from "./generated/endoscope/v1/model_pb";
import { useModel } from "./models";
import { Banner, Waiting } from "./parts/Banner";
import { Shell } from "./parts/Shell";
import { Unlock } from "./parts/Unlock";
import { Adversarial } from "./rooms/Adversarial";
import { AttributionRoom } from "./rooms/AttributionRoom";
import { AuditRoom } from "./rooms/AuditRoom";
import { ClassRoom } from "./rooms/ClassRoom";
import { Datasets } from "./rooms/Datasets";
import { Dream } from "./rooms/Dream";
import { EmbeddingRoom } from "./rooms/EmbeddingRoom";
import { Fooling } from "./rooms/Fooling";
import { InversionRoom } from "./rooms/InversionRoom";
import { LayerRoom } from "./rooms/LayerRoom";
import { ModelRoom } from "./rooms/ModelRoom";
import { Models } from "./rooms/Models";
import { Neighbors } from "./rooms/Neighbors";
import { TechniqueRoom } from "./rooms/TechniqueRoom";
import { type Room, type Route, route } from "./router";

export interface RoomProps {
  id: string;
  model: Model;
  rest: string[];
}

const ROOMS: Partial<Record<Room, ComponentType<RoomProps>>> = {
  model: ModelRoom,
  layer: LayerRoom,
  class: ClassRoom,
  dream: Dream,
  adversarial: Adversarial,
  fooling: Fooling,
  inversion: InversionRoom,
  attribution: AttributionRoom,
  technique: TechniqueRoom,
  embedding: EmbeddingRoom,
  neighbors: Neighbors,
  audit: AuditRoom,
};

export function App() {
  const here = route.use();
  const locked = refused.use() !== "";
  useEffect(() => {
    document.title = [here.room === "models" ? "" : here.rest[0] || here.room, here.model, "Endoscope"]
      .filter(Boolean)
      .join(" · ");
  }, [here]);
  return (
    <Shell route={here}>
      {locked ? (
        <Unlock />
      ) : (
        <>
          {here.room === "models" && <Models />}
          {here.room === "datasets" && <Datasets />}
          {here.model && <OfModel key={here.model} route={here} />}
        </>
      )}
    </Shell>
  );
}

function OfModel({ route: { room, model: id, rest } }: { route: Route }) {
  const { value: model, failure } = useModel(id);
  if (failure) return <Banner failure={failure} />;
  if (!model) return <Waiting what={`Loading ${id}`} />;
  const Inside = ROOMS[room]!;
  return <Inside key={room} id={id} model={model} rest={rest} />;
}
