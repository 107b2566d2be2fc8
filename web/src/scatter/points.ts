// Points on a plane, drawn by WebGL: a program, a buffer, and one draw a frame.

export interface Points {
  /** x and y of each point, in units of the plane. */
  places: Float32Array;
  /** Red, green, blue of each point, in [0, 1]. */
  colors: Float32Array;
  count: number;
}

const VERTEX = `
attribute vec2 place;
attribute vec3 color;
uniform vec3 view;
uniform vec2 size;
uniform mediump float radius;
varying vec3 paint;
void main() {
  vec2 at = (place * view.z + view.xy) / size * 2.0 - 1.0;
  gl_Position = vec4(at.x, -at.y, 0.0, 1.0);
  gl_PointSize = radius * 2.0;
  paint = color;
}`;

const FRAGMENT = `
precision mediump float;
varying vec3 paint;
uniform float radius;
uniform float opacity;
void main() {
  float away = length(gl_PointCoord - 0.5) * 2.0 * radius;
  float shade = clamp(radius - away, 0.0, 1.0) * opacity;
  if (shade <= 0.0) discard;
  gl_FragColor = vec4(paint * shade, shade);
}`;

export interface Drawer {
  load: (points: Points) => void;
  draw: (view: { x: number; y: number; scale: number }, width: number, height: number, ratio: number, radius: number) => void;
  free: () => void;
}

function shader(gl: WebGLRenderingContext, kind: number, text: string): WebGLShader {
  const made = gl.createShader(kind)!;
  gl.shaderSource(made, text);
  gl.compileShader(made);
  if (!gl.getShaderParameter(made, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(made) ?? "shader");
  return made;
}

/** Undefined where the browser has no WebGL. */
export function drawer(canvas: HTMLCanvasElement): Drawer | undefined {
  const gl = canvas.getContext("webgl", { antialias: true, premultipliedAlpha: true });
  if (!gl) return undefined;
  const program = gl.createProgram()!;
  gl.attachShader(program, shader(gl, gl.VERTEX_SHADER, VERTEX));
  gl.attachShader(program, shader(gl, gl.FRAGMENT_SHADER, FRAGMENT));
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program) ?? "program");
  gl.useProgram(program);
  gl.enable(gl.BLEND);
  gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  const buffers = { place: gl.createBuffer()!, color: gl.createBuffer()! };
  const uniform = (name: string) => gl.getUniformLocation(program, name);
  const [view, size, radius, opacity] = ["view", "size", "radius", "opacity"].map(uniform);
  let count = 0;

  function fill(name: "place" | "color", data: Float32Array, width: number): void {
    gl!.bindBuffer(gl!.ARRAY_BUFFER, buffers[name]);
    gl!.bufferData(gl!.ARRAY_BUFFER, data, gl!.STATIC_DRAW);
    const at = gl!.getAttribLocation(program, name);
    gl!.enableVertexAttribArray(at);
    gl!.vertexAttribPointer(at, width, gl!.FLOAT, false, 0, 0);
  }

  return {
    load(points) {
      count = points.count;
      fill("place", points.places, 2);
      fill("color", points.colors, 3);
    },
    draw(now, width, height, ratio, dot) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.clearColor(0, 0, 0, 0);
      gl.clear(gl.COLOR_BUFFER_BIT);
      gl.uniform3f(view!, now.x, now.y, now.scale);
      gl.uniform2f(size!, width, height);
      gl.uniform1f(radius!, dot * ratio);
      gl.uniform1f(opacity!, count > 5000 ? 0.6 : 0.85);
      gl.drawArrays(gl.POINTS, 0, count);
    },
    free() {
      gl.deleteBuffer(buffers.place);
      gl.deleteBuffer(buffers.color);
      gl.deleteProgram(program);
    },
  };
}
