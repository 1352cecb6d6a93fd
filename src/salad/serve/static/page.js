// One question at a time: record or choose, ask, read the answer as it comes. All text is set as text, never as HTML.
const at = (id) => document.getElementById(id);
const UNSURE = 0.5;
let recording = null; // {blob, format}
let microphone = null; // while it runs
let asking = null; // an AbortController

function say(text, wrong = false) {
  at("status").textContent = text;
  at("status").classList.toggle("error", wrong);
}

function take(blob, format) {
  recording = { blob, format };
  if (at("playback").src) URL.revokeObjectURL(at("playback").src);
  at("playback").src = URL.createObjectURL(blob);
  at("playback").hidden = false;
  say(`A recording of ${Math.ceil(blob.size / 1024)} KiB is ready.`);
}

// --- the microphone ---------------------------------------------------------------------------------------

async function begin() {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
  const context = new AudioContext();
  await context.audioWorklet.addModule("/static/recorder.js");
  const node = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0 });
  const blocks = [];
  node.port.onmessage = (event) => blocks.push(event.data);
  context.createMediaStreamSource(stream).connect(node);
  microphone = { stream, context, blocks };
  at("record").setAttribute("aria-pressed", "true");
  at("record").textContent = "Stop recording";
  say("Recording.");
}

async function end() {
  const { stream, context, blocks } = microphone;
  microphone = null;
  stream.getTracks().forEach((track) => track.stop());
  at("record").setAttribute("aria-pressed", "false");
  at("record").textContent = "Record";
  const rate = context.sampleRate;
  await context.close();
  if (!blocks.length) return say("The microphone gave nothing; is another program using it?", true);
  take(wav(blocks, rate), "wav");
}

function wav(blocks, rate) {
  const length = blocks.reduce((sum, block) => sum + block.length, 0);
  const view = new DataView(new ArrayBuffer(44 + 2 * length));
  const word = (offset, text) => [...text].forEach((c, i) => view.setUint8(offset + i, c.charCodeAt(0)));
  word(0, "RIFF"); view.setUint32(4, 36 + 2 * length, true); word(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, rate, true); view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true); view.setUint16(34, 16, true); word(36, "data"); view.setUint32(40, 2 * length, true);
  let offset = 44;
  for (const block of blocks) for (const sample of block) {
    view.setInt16(offset, Math.max(-1, Math.min(1, sample)) * 32767, true);
    offset += 2;
  }
  return new Blob([view], { type: "audio/wav" });
}

// --- asking -----------------------------------------------------------------------------------------------

async function post(path, body) {
  const headers = { "content-type": "application/json" };
  const key = at("key").value;
  if (key) headers.authorization = `Bearer ${key}`;
  const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal: asking.signal });
  if (answer.ok) return answer;
  if (answer.status === 401) at("key-row").hidden = false;
  const told = await answer.json().catch(() => null);
  throw new Error(told?.error?.message ?? `The server answered ${answer.status}.`);
}

async function base64(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return btoa(text);
}

async function stream(content) {
  const messages = [{ role: "user", content }];
  const answer = await post("/v1/chat/completions", { model: "salad", messages, stream: true, max_tokens: 256 });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const events = held.split("\n\n");
    held = events.pop();
    for (const event of events) {
      if (event === "data: [DONE]") continue;
      const told = JSON.parse(event.slice(6));
      if (told.error) throw new Error(told.error.message);
      at("answer").textContent += told.choices[0]?.delta.content ?? "";
    }
  }
}

async function compare(audio, text) {
  const said = at("said").value.trim();
  const body = { model: "salad", audio, text, answers: ["reader", "cascade"], max_tokens: 256 };
  if (said) body.said = said;
  const told = await (await post("/v1/salad/compare", body)).json();
  at("heard").replaceChildren(...told.heard.words.flatMap(({ word, probability }) => {
    const shown = document.createElement(probability < UNSURE ? "mark" : "span");
    shown.textContent = word;
    shown.title = `sure to ${Math.round(100 * probability)} %`;
    if (probability < UNSURE) shown.setAttribute("aria-label", `${word} (unsure)`);
    return [shown, " "];
  }));
  if (!told.heard.words.length) at("heard").textContent = "Nothing.";
  at("reader").textContent = told.answers.reader.text;
  at("transcript").textContent = told.cascade?.text ?? "this server has no recogniser";
  at("cascade").textContent = told.answers.cascade?.text ?? "";
  at("words").hidden = !told.said;
  at("words").tBodies[0].replaceChildren(...(told.said ?? []).map(({ word, heard, m }) => {
    const row = document.createElement("tr");
    for (const cell of [word, heard ?? "(missed)", m === null ? "-" : m.toFixed(2)]) row.insertCell().textContent = cell;
    return row;
  }));
}

async function ask() {
  const text = at("text").value;
  if (!recording && !text.trim()) return say("Record something, choose a recording, or write.", true);
  for (const id of ["answer", "heard", "reader", "transcript", "cascade"]) at(id).textContent = "";
  at("words").hidden = true;
  asking = new AbortController();
  at("ask").disabled = true;
  at("stop").disabled = false;
  at("answer").setAttribute("aria-busy", "true");
  say("Listening.");
  try {
    const content = [];
    const audio = recording && { data: await base64(recording.blob), format: recording.format };
    if (audio) content.push({ type: "input_audio", input_audio: audio });
    if (text) content.push({ type: "text", text: audio ? ` ${text}` : text });
    await stream(content);
    at("answer").setAttribute("aria-busy", "false");
    if (audio) {
      say("Comparing.");
      await compare(audio, text && ` ${text}`);
    }
    say("Done.");
  } catch (error) {
    if (error.name === "AbortError") say("Stopped.");
    else say(error.message, true);
  } finally {
    at("answer").setAttribute("aria-busy", "false");
    at("ask").disabled = false;
    at("stop").disabled = true;
  }
}

// --- what a person does -----------------------------------------------------------------------------------

at("record").addEventListener("click", () =>
  (microphone ? end() : begin()).catch((error) => say(`No microphone: ${error.message}`, true)));
at("file").addEventListener("change", () => at("file").files[0] && choose(at("file").files[0]));
at("stop").addEventListener("click", () => asking?.abort());
at("question").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]])
  at("drop").addEventListener(name, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", over);
    if (name === "drop" && event.dataTransfer.files[0]) choose(event.dataTransfer.files[0]);
  });

function choose(file) {
  const known = ["wav", "mp3", "flac", "ogg", "m4a", "opus", "webm", "mp4"];
  const format = file.name.split(".").pop().toLowerCase();
  if (!known.includes(format)) return say(`${file.name} is none of ${known.join(", ")}.`, true);
  take(file, format);
}
