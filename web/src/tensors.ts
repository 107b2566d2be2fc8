import { DataType, type Tensor } from "./generated/endoscope/v1/tensor_pb";

/** A tensor of single precision as an array; the bytes are copied, since they need not be aligned. */
export function floats(tensor: Tensor): Float32Array {
  if (tensor.dataType !== DataType.FLOAT) throw new Error(`a tensor of ${DataType[tensor.dataType]}, expected FLOAT`);
  return new Float32Array(tensor.data.slice().buffer);
}
