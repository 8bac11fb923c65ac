// NVIDIA's web client without its browser: opus-recorder's own encoder and decoder, with that client's options.
//
//   node opus_recorder_client.cjs FOLDER-OF-OPUS-RECORDER URL SECONDS < said.f32 > heard.f32
//
// What is said and heard is float32 at 48 kHz, as a browser's audio context has it. It records from the handshake on,
// in real time, and decodes what comes. The text and the kinds of messages go to stderr, as JSON.
const path = require("node:path");
const fs = require("node:fs");

const [folder, url, seconds] = process.argv.slice(2);
const CONTEXT_HZ = 48_000;
const ENGINE_HZ = 24_000;
const BUFFER = (960 * CONTEXT_HZ) / ENGINE_HZ;

// Worker scripts take and give messages by globals of their own. Both give theirs here: the encoder's say what
// they are, the decoder's are lists of buffers.
let onPage = () => {};
let onSound = () => {};
globalThis.postMessage = (message) => {
  if (message?.message === "page") onPage(message.page);
  else if (Array.isArray(message)) onSound(message[0]);
};
delete globalThis.fetch; // it reads no files, and the decoder's codec is one

function worker(name) {
  require(path.join(folder, "dist", name));
  const take = globalThis.onmessage;
  // Emscripten throws what is not caught again, with its whole source.
  process.removeAllListeners("uncaughtException");
  process.removeAllListeners("unhandledRejection");
  return (message) => take({ data: message });
}

// A page that makes the decoder ready before the stream begins, as the web client sends it.
function warmUpPage() {
  const head = Buffer.from("OpusHead\x01\x01\x38\x01\x80\xbb\x00\x00\x00\x00\x00", "latin1");
  const page = Buffer.alloc(28 + head.length);
  page.write("OggS", 0, "latin1");
  page[5] = 2;
  page[14] = 1;
  page[26] = 1;
  page[27] = head.length;
  head.copy(page, 28);
  return new Uint8Array(page);
}

async function main() {
  const said = fs.readFileSync(0);
  const pcm = new Float32Array(said.buffer, said.byteOffset, said.length / 4);
  const encoder = worker("encoderWorker.min.js");
  const decoder = worker("decoderWorker.min.js");
  await new Promise((resolve) => setTimeout(resolve, 1000)); // as the web client waits for its codecs
  encoder({
    command: "init",
    originalSampleRate: CONTEXT_HZ,
    bufferLength: BUFFER,
    encoderFrameSize: 20,
    encoderSampleRate: ENGINE_HZ,
    maxFramesPerPage: 2,
    numberOfChannels: 1,
    recordingGain: 1,
    resampleQuality: 3,
    encoderComplexity: 0,
    encoderApplication: 2049,
    streamPages: true,
  });
  decoder({
    command: "init",
    bufferLength: BUFFER,
    decoderSampleRate: ENGINE_HZ,
    outputBufferSampleRate: CONTEXT_HZ,
    resampleQuality: 0,
  });
  decoder({ command: "decode", pages: warmUpPage() });

  const kinds = {};
  let text = "";
  const heard = [];
  const socket = new WebSocket(url);
  socket.binaryType = "arraybuffer";
  onPage = (page) => socket.send(Buffer.concat([Buffer.from([1]), page]));
  onSound = (samples) => heard.push(Buffer.from(new Float32Array(samples).buffer));
  let began = 0;
  let at = 0;
  const record = () => {
    // A browser's audio callback: a buffer whenever it is full.
    while (at + BUFFER <= pcm.length && Date.now() - began >= (1000 * (at + BUFFER)) / CONTEXT_HZ) {
      encoder({ command: "encode", buffers: [pcm.slice(at, at + BUFFER)] });
      at += BUFFER;
    }
  };
  socket.onmessage = (event) => {
    const message = new Uint8Array(event.data);
    kinds[message[0]] = (kinds[message[0]] ?? 0) + 1;
    if (message[0] === 0) {
      began = Date.now();
      encoder({ command: "getHeaderPages" });
      setInterval(record, 5);
    } else if (message[0] === 1) {
      decoder({ command: "decode", pages: message.slice(1) });
    } else if (message[0] === 2) {
      text += new TextDecoder("utf-8", { fatal: true }).decode(message.slice(1));
    }
  };
  socket.onclose = (event) => {
    process.stderr.write(`closed: ${event.code} ${event.reason}\n`);
    process.exit(1);
  };
  setTimeout(() => {
    socket.onclose = null;
    fs.writeSync(2, JSON.stringify({ kinds, text }));
    const all = Buffer.concat(heard);
    for (let done = 0; done < all.length; ) done += fs.writeSync(1, all, done);
    process.exit(0);
  }, 1000 * Number(seconds));
}

main().catch((error) => {
  process.stderr.write(String(error?.stack ?? error).slice(-500));
  process.exit(1);
});
