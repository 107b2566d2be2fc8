"""What a serving benchmark puts beside us: a plain server, and a runtime for MLServer.

The plain one is what one writes first: a coroutine that runs ONNX Runtime in a thread for each request.
MLServer's interpreter imports this file too, so our own package is only looked for where it is needed.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

NAME = "benchmarked"
"""The model's name at every server."""


async def serve_plainly(model: Path, port_file: Path) -> None:
    """A plain, unbatched grpc.aio server."""
    import grpc.aio

    from endoscope_server.protocols import grpc_service_pb2 as pb
    from endoscope_server.protocols import grpc_service_pb2_grpc

    session = ort.InferenceSession(model)

    class Plain(grpc_service_pb2_grpc.GRPCInferenceServiceServicer):
        async def ModelInfer(self, request: Any, _context: Any) -> Any:
            [tensor] = request.inputs
            array = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(tensor.shape)
            [found] = await asyncio.to_thread(session.run, None, {tensor.name: array})
            response = pb.ModelInferResponse(model_name=NAME, raw_output_contents=[found.tobytes()])
            response.outputs.add(name=session.get_outputs()[0].name, datatype="FP32", shape=found.shape)
            return response

    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Plain(), server)
    port_file.write_text(str(server.add_insecure_port("127.0.0.1:0")))
    await server.start()
    await server.wait_for_termination()


def start_mlserver(python: Path, model: Path, folder: Path, ports: list[int]) -> subprocess.Popen[bytes]:
    """MLServer with its adaptive batching, from an interpreter that has it."""
    settings = {
        **dict(zip(("grpc_port", "http_port", "metrics_port"), ports, strict=True)),
        "host": "127.0.0.1",
        "debug": False,
        "parallel_workers": 0,
    }
    about = {
        "name": NAME,
        "implementation": "serving_peers.OnnxRuntime",
        "parameters": {"uri": str(model.resolve())},
        "max_batch_size": 8,
        "max_batch_time": 0.005,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(about))
    (folder / "serving_peers.py").symlink_to(Path(__file__).resolve())
    command = [str(python.with_name("mlserver")), "start", str(folder)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


try:
    from mlserver import MLModel
    from mlserver.codecs import NumpyCodec
    from mlserver.types import InferenceResponse
except ImportError:
    pass
else:

    class OnnxRuntime(MLModel):
        """MLServer has no runtime for ONNX of its own."""

        async def load(self) -> bool:
            """Start the session."""
            self._session = ort.InferenceSession(self.settings.parameters.uri)
            return True

        async def predict(self, payload: Any) -> InferenceResponse:
            """Run a batch."""
            [tensor] = payload.inputs
            array = NumpyCodec.decode_input(tensor).astype(np.float32, copy=False)
            [found] = await asyncio.to_thread(self._session.run, None, {tensor.name: array})
            name = self._session.get_outputs()[0].name
            output = NumpyCodec.encode_output(name, found)
            return InferenceResponse(model_name=self.name, outputs=[output])


if __name__ == "__main__":
    asyncio.run(serve_plainly(Path(sys.argv[1]), Path(sys.argv[2])))
