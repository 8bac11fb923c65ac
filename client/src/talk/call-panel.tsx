/** During a talk, and after it. */

import { useEffect, useRef, useState } from "react";
import type { TalkSession, TalkSnapshot } from "../audio/talk-session";
import { clock, milliseconds } from "../ui/format";
import { Badge, Button, classes, Notice, Panel } from "../ui/parts";
import { LevelMeter, Presence } from "./meters";
import { DeviceFields, MicrophoneIcon } from "./setup-panel";
import { type Offer, type Setup, voiceName } from "./setup";

interface Props {
  session: TalkSession;
  snapshot: TalkSnapshot;
  setup: Setup;
  offer: Offer;
  onChange: (part: Partial<Setup>) => void;
  onAgain: () => void;
  onSetup: () => void;
}

/** An engine that says nothing for so long is likely to be busy with somebody else. */
const LONG_WAIT_S = 8;

export function CallPanel({ session, snapshot, setup, offer, onChange, onAgain, onSetup }: Props) {
  const { state } = snapshot;
  const isOver = state.name === "ended";
  useHeldKey(session, !isOver);
  return (
    <div className="grid gap-4 lg:grid-cols-[1fr_20rem]">
      <div className="min-w-0 space-y-4">
        <Panel className="text-center">
          <p className="mb-2 flex flex-wrap justify-center gap-2">
            <Badge wraps>{setup.persona ?? voiceName(setup.voice)}</Badge>
            {offer.rehearsal && <Badge tone="warn">rehearsal engine</Badge>}
            {snapshot.recorded && !isOver && <Badge tone="bad">recorded by the bridge</Badge>}
          </p>
          <Presence session={session} active={state.name === "listening"} />
          <Status snapshot={snapshot} isBare={offer.isBare} />
          {isOver ? (
            <div className="mt-5 flex flex-wrap justify-center gap-2">
              <Button look="main" onClick={onAgain}>
                Talk again
              </Button>
              <Button onClick={onSetup}>Change the agent</Button>
              {snapshot.hasRecording && <Download session={session} />}
            </div>
          ) : (
            <Controls session={session} snapshot={snapshot} />
          )}
        </Panel>
        {snapshot.microphoneLost && !isOver && (
          <Notice tone="bad" title="The microphone is gone: the agent hears silence." live>
            <p>Plug it in again, or choose another one.</p>
            <Button onClick={() => void session.useMicrophone(setup.microphoneId, setup.headphones)}>Try again</Button>
          </Notice>
        )}
        {snapshot.suspended && !isOver && (
          <Notice tone="warn" title="The system plays no sound." live>
            <p>The agent hears nothing either. Check that a loudspeaker or headphones are there, and go on.</p>
            <Button onClick={() => session.resume()}>Go on</Button>
          </Notice>
        )}
        <Captions snapshot={snapshot} />
      </div>
      <div className="space-y-4 lg:self-start">
        {!isOver && (
          <Panel title="Sound">
            <DeviceFields setup={setup} devices={snapshot.devices} onChange={onChange} />
          </Panel>
        )}
        <Figures session={session} isOver={isOver} />
      </div>
    </div>
  );
}

function Status({ snapshot, isBare }: { snapshot: TalkSnapshot; isBare: boolean }) {
  const { state, startedAtMs } = snapshot;
  const waitedS = useSeconds(state.name);
  const talkedS = useTalkedS(startedAtMs, state.name === "ended");
  let title: string;
  let detail = "";
  switch (state.name) {
    case "microphone":
      title = "Allow the microphone";
      detail = "The browser asks for it, near the address.";
      break;
    case "connecting":
      title = "Connecting…";
      break;
    case "preparing":
      title = "The agent is getting ready…";
      detail =
        waitedS < LONG_WAIT_S
          ? ""
          : isBare
            ? "An engine without a bridge talks to one caller at a time and does not say when it is busy. This may take until that call ends."
            : "This takes longer than usual. You need not do anything.";
      break;
    case "queued":
      title = state.place === 1 ? "You are next" : `You are number ${state.place} in line`;
      detail = "All agents are in other calls. You are connected as soon as one is free.";
      break;
    case "listening":
      if (state.agentLost) [title, detail] = ["One moment…", "The agent's engine failed. Another one takes over."];
      else if (state.stalled) [title, detail] = ["The connection stalls", "Nothing arrives at the moment. It goes on by itself when the network does."];
      else if (snapshot.muted) [title, detail] = ["You are muted", "The agent hears silence."];
      else title = "Listening";
      break;
    case "reconnecting":
      title = "Connection lost";
      detail = `Trying again (attempt ${state.attempt}). What you say now is not heard, and the agent will begin anew: it does not remember this talk.`;
      break;
    case "ended":
      title = state.isFault ? "The talk could not go on" : "The talk is over";
      detail = state.reason;
      break;
    default:
      title = "";
  }
  return (
    <div className="mt-3">
      <div role="status" data-talk={state.name}>
        <h1 className={classes("text-xl font-semibold", state.name === "ended" && state.isFault && "text-danger")}>{title}</h1>
        {detail && <p className="mx-auto mt-1 max-w-md text-sm text-soft">{detail}</p>}
      </div>
      <p className="mt-1 text-sm text-soft tabular-nums" aria-hidden="true">
        {talkedS !== null ? clock(talkedS) : state.name === "preparing" || state.name === "queued" ? `waiting for ${clock(waitedS)}` : "\u00a0"}
      </p>
    </div>
  );
}

function Controls({ session, snapshot }: { session: TalkSession; snapshot: TalkSnapshot }) {
  const isTalking = snapshot.state.name === "listening" || snapshot.state.name === "reconnecting";
  return (
    <>
      {isTalking && (
        <div className="mx-auto mt-4 grid max-w-md grid-cols-2 gap-4 text-left">
          <LevelMeter session={session} of="heardLevel" label="You" dimmed={snapshot.muted} />
          <LevelMeter session={session} of="playedLevel" label="Agent" />
        </div>
      )}
      <div className="mt-5 flex flex-wrap justify-center gap-2">
        {isTalking && (
          <Button aria-pressed={snapshot.muted} onClick={() => session.mute(!snapshot.muted)}>
            <MicrophoneIcon muted={snapshot.muted} /> {snapshot.muted ? "Unmute" : "Mute"}
          </Button>
        )}
        <Button look="danger" onClick={() => session.hangUp()}>
          {isTalking ? "Hang up" : snapshot.state.name === "queued" ? "Leave the line" : "Cancel"}
        </Button>
        {snapshot.hasRecording && <Download session={session} />}
      </div>
      {isTalking && (
        <p className="mt-3 hidden text-xs text-soft sm:block">
          Hold <kbd className="rounded border border-edge px-1.5 font-sans">Space</kbd> to {snapshot.muted ? "speak" : "mute yourself"} for a moment.
        </p>
      )}
    </>
  );
}

function Captions({ snapshot: { captions, state } }: { snapshot: TalkSnapshot }) {
  const end = useRef<HTMLLIElement>(null);
  const list = useRef<HTMLDivElement>(null);
  const last = captions.at(-1)?.text;
  useEffect(() => {
    const box = list.current;
    // Whoever has scrolled up reads: leave it there.
    if (box && box.scrollHeight - box.scrollTop - box.clientHeight < 120) end.current?.scrollIntoView({ block: "nearest" });
  }, [last]);
  return (
    <Panel title="What the agent says">
      {captions.length === 0 && <p className="text-sm text-soft">{state.name === "ended" ? "The agent said nothing." : "Its words appear here."}</p>}
      <div ref={list} role="log" aria-live="polite" aria-label="Captions" tabIndex={0} className="max-h-80 overflow-y-auto">
        <ol className="space-y-2">
          {captions.map((caption, at) => (
            <li key={caption.id} ref={at === captions.length - 1 ? end : undefined} className="flex gap-3">
              <span className="w-12 shrink-0 text-right text-sm leading-6 text-soft tabular-nums">{clock(caption.atS)}</span>
              <span className="min-w-0 leading-6 break-words">{caption.text}</span>
            </li>
          ))}
        </ol>
      </div>
    </Panel>
  );
}

/** For whoever wonders why it sounds as it does. */
function Figures({ session, isOver }: { session: TalkSession; isOver: boolean }) {
  const [, again] = useState(0);
  useEffect(() => {
    if (isOver) return;
    const timer = setInterval(() => again((count) => count + 1), 500);
    return () => clearInterval(timer);
  }, [isOver]);
  const { meters } = session;
  const { playout, wire } = meters ?? {};
  const rows: [string, string, string][] = [
    ["round-trip", "Network, there and back", milliseconds(wire?.roundTripMs)],
    ["target", "Held back for lateness", milliseconds(playout?.targetMs)],
    ["depth", "Waiting to be played", milliseconds(playout?.depthMs)],
    ["output", "Browser and loudspeaker", milliseconds(session.outputMs || null)],
    ["underruns", "Gaps", playout ? `${playout.underruns}, ${Math.round(playout.concealedMs)} ms made up` : "–"],
    ["dropped", "Taken out, put in", playout ? `${Math.round(playout.droppedMs)} ms, ${Math.round(playout.insertedMs)} ms` : "–"],
    ["packets", "Packets sent, received", wire ? `${wire.sentPackets}, ${wire.receivedPackets}` : "–"],
    ["lost", "Not sent, broken", wire ? `${wire.unsentPackets}, ${wire.badPages}` : "–"],
    ["codec", "Opus by", wire?.codec || "–"],
  ];
  return (
    <details className="rounded-2xl border border-line bg-panel p-4 sm:p-5">
      <summary className="text-base font-semibold">Connection</summary>
      <dl className="mt-3 grid grid-cols-[1fr_auto] gap-x-4 gap-y-1.5 text-sm">
        {rows.map(([name, label, value]) => (
          <div key={name} className="contents">
            <dt className="text-soft">{label}</dt>
            <dd data-figure={name} className="text-right tabular-nums">
              {value}
            </dd>
          </div>
        ))}
      </dl>
    </details>
  );
}

function Download({ session }: { session: TalkSession }) {
  const download = async () => {
    const wav = await session.recording();
    if (!wav) return;
    const url = URL.createObjectURL(wav);
    const link = document.createElement("a");
    link.href = url;
    link.download = `talk-${new Date().toISOString().slice(0, 19).replaceAll(":", "-")}.wav`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  };
  return (
    <Button onClick={() => void download()} title="A WAV file: you on the left, the agent on the right">
      Download
    </Button>
  );
}

/**
 * Space, while it is held, turns the microphone the other way round. On a control that the keyboard has reached it
 * presses that control instead. One that a pointer has clicked does not keep the focus, or "hold Space" would be
 * wrong after each click.
 */
function useHeldKey(session: TalkSession, active: boolean): void {
  useEffect(() => {
    if (!active) return;
    const isForUs = ({ code, target }: KeyboardEvent) =>
      code === "Space" && !(target instanceof HTMLElement && target.closest("input, select, textarea, button, summary, a, [role=switch]"));
    const down = (event: KeyboardEvent) => {
      if (!isForUs(event)) return;
      event.preventDefault();
      if (!event.repeat) session.holdMute(true);
    };
    const up = ({ code }: KeyboardEvent) => {
      if (code === "Space") session.holdMute(false);
    };
    const left = () => session.holdMute(false);
    const clicked = ({ detail, target }: MouseEvent) => {
      const control = target instanceof Element && target.closest<HTMLElement>("button, summary, [role=switch]");
      if (detail > 0 && control) control.blur();
    };
    window.addEventListener("keydown", down);
    window.addEventListener("keyup", up);
    window.addEventListener("blur", left);
    window.addEventListener("click", clicked);
    return () => {
      left();
      window.removeEventListener("keydown", down);
      window.removeEventListener("keyup", up);
      window.removeEventListener("blur", left);
      window.removeEventListener("click", clicked);
    };
  }, [session, active]);
}

/** Seconds since `what` changed. */
function useSeconds(what: string): number {
  const [seconds, setSeconds] = useState(0);
  useEffect(() => {
    const since = performance.now();
    setSeconds(0);
    const timer = setInterval(() => setSeconds((performance.now() - since) / 1000), 1000);
    return () => clearInterval(timer);
  }, [what]);
  return seconds;
}

/** For how long the agent has been listening; stands still at the end. */
function useTalkedS(startedAtMs: number | null, isOver: boolean): number | null {
  const [talkedS, setTalkedS] = useState<number | null>(null);
  useEffect(() => {
    const read = () => setTalkedS(startedAtMs && (performance.now() - startedAtMs) / 1000);
    read();
    if (isOver || !startedAtMs) return;
    const timer = setInterval(read, 1000);
    return () => clearInterval(timer);
  }, [startedAtMs, isOver]);
  return talkedS;
}
