"""Runs Triton's own client in a process of its own, where no other file defines the protocol's messages.

It reads pickled calls (the name of a function below, its arguments) and writes pickled answers. What is in
none of these functions is a method of the client.
"""

import asyncio
import os
import pickle
import sys
from queue import Queue

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype, shared_memory


class Calls:
    def __init__(self, target: str) -> None:
        self.target = target
        self.client = triton.InferenceServerClient(target)

    def infer(self, model, arrays, outputs=None, classes=0, **options):
        found = self.client.infer(model, _inputs(arrays), outputs=_outputs(outputs, classes), **options)
        return _result(found)

    def infer_all(self, model, requests, outputs=None):
        """Many requests at the same time, by callbacks; each one's answer or error."""
        answers = [Queue() for _ in requests]
        for arrays, answer in zip(requests, answers, strict=True):
            self.client.async_infer(
                model,
                _inputs(arrays),
                callback=lambda result, error, answer=answer: answer.put((result, error)),
                outputs=_outputs(outputs),
            )
        return [_either(*answer.get(timeout=60)) for answer in answers]

    def stream(self, model, requests, **options):
        """A stream of requests with identifiers; answers as they come."""
        answers = Queue()
        with triton.InferenceServerClient(self.target) as client:
            client.start_stream(lambda result, error: answers.put((result, error)))
            for index, arrays in enumerate(requests):
                client.async_stream_infer(model, _inputs(arrays), request_id=f"r{index}", **options)
            found = [answers.get(timeout=60) for _ in requests]
            client.stop_stream()
        return [_either(*pair) for pair in found]

    def shared_infer(self, model, name, array, output, output_bytes):
        """Input and output in the system's shared memory; the output, and what the answer says."""
        key = f"/endoscope-{os.getpid()}"
        region = shared_memory.create_shared_memory_region("region", key, array.nbytes + 64 + output_bytes)
        try:
            self.client.register_system_shared_memory("region", key, array.nbytes + 64 + output_bytes)
            status = self.client.get_system_shared_memory_status("region", as_json=True)
            shared_memory.set_shared_memory_region(region, [array], offset=32)
            tensor = triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
            tensor.set_shared_memory("region", array.nbytes, offset=32)
            wanted = triton.InferRequestedOutput(output)
            wanted.set_shared_memory("region", output_bytes, offset=array.nbytes + 64)
            response = self.client.infer(model, [tensor], outputs=[wanted]).get_response()
            told = response.outputs[0]
            found = shared_memory.get_contents_as_numpy(
                region, np.float32, list(told.shape), offset=array.nbytes + 64
            )
            size = told.parameters["shared_memory_byte_size"].int64_param
            return np.array(found), size, list(response.raw_output_contents), status
        finally:
            self.client.unregister_system_shared_memory("region")
            shared_memory.destroy_shared_memory_region(region)

    def infer_aio(self, model, requests):
        async def work():
            async with triton_aio.InferenceServerClient(self.target) as client:
                calls = [client.infer(model, _inputs(arrays)) for arrays in requests]
                return [_result(found) for found in await asyncio.gather(*calls)]

        return asyncio.run(work())

    def raw_call(self, method, request_bytes):
        """A call whose message is made elsewhere; the response's bytes."""
        name = {"ModelInfer": "ModelInfer"}.get(method, method)
        kind = getattr(service_pb2, f"{name}Request")
        stub = service_pb2_grpc.GRPCInferenceServiceStub(self.client._channel)
        return getattr(stub, method)(kind.FromString(request_bytes), timeout=60).SerializeToString()

    def typed_infer(self, model, tensors, raw=(), outputs=(), parameters=None):
        """A message made by hand: tensors of (name, datatype, shape, contents field, values)."""
        request = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=raw)
        for name, datatype, shape, field, values in tensors:
            tensor = request.inputs.add(name=name, datatype=datatype, shape=shape)
            if field:
                getattr(tensor.contents, field).extend(values)
        for name in outputs:
            request.outputs.add(name=name)
        for key, value in (parameters or {}).items():
            request.parameters[key].bool_param = value
        stub = service_pb2_grpc.GRPCInferenceServiceStub(self.client._channel)
        response = stub.ModelInfer(request, timeout=60)
        found = {}
        for index, tensor in enumerate(response.outputs):
            contents = {field.name: list(values) for field, values in tensor.contents.ListFields()}
            raw_output = response.raw_output_contents[index] if response.raw_output_contents else None
            found[tensor.name] = (tensor.datatype, list(tensor.shape), contents, raw_output)
        return found

    def __getattr__(self, name):
        method = getattr(self.client, name)

        def call(*arguments, **options):
            return method(*arguments, **options, **({"as_json": True} if name.startswith("get_") else {}))

        return call


def _inputs(arrays):
    inputs = []
    for name, array in arrays.items():
        tensor = triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


def _outputs(names, classes=0):
    return [triton.InferRequestedOutput(name, class_count=classes) for name in names] if names else None


def _result(found):
    response = found.get_response()
    values = {output.name: np.array(found.as_numpy(output.name)) for output in response.outputs}
    parameters = {key: value.bool_param for key, value in response.parameters.items()}
    about = {"id": response.id, "model": response.model_name, "version": response.model_version}
    return {**about, "parameters": parameters, "values": values}


def _either(result, error):
    return str(error) if error is not None else _result(result)


def main(target: str) -> None:
    calls = Calls(target)
    # Whatever prints must not come between the answers.
    answers, sys.stdout = sys.stdout.buffer, sys.stderr
    while True:
        try:
            name, arguments, options = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = (getattr(calls, name)(*arguments, **options), None)
        except Exception as error:
            code = getattr(error, "code", None)
            status = error.status() if hasattr(error, "status") else str(code() if code else type(error))
            message = error.message() if hasattr(error, "message") else None
            message = message or (error.details() if hasattr(error, "details") else str(error))
            answer = (None, (status, message))
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
