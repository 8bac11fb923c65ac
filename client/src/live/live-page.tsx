/** Live calls and engines, for an operator. */

import { useMutation, useQuery } from "@tanstack/react-query";
import { type FormEvent, memo, type ReactNode, useCallback, useEffect, useRef, useState } from "react";
import { Redirect } from "wouter";
import { post, sessionQuery } from "../api/client";
import { type Live, useLive } from "../api/live";
import type { LiveCall, LiveEngine, Snapshot } from "../api/schema";
import { counted, milliseconds } from "../ui/format";
import { Badge, Button, classes, Dialog, Field, FIELD, Notice, Panel } from "../ui/parts";
import { store, stored } from "../ui/storage";
import { callerOf, engineTone, parseNumbers, PHASES, type Row, rowOf } from "./calls";

type Action = "end" | "hand over";
type Asked = { action: Action; call: LiveCall } | null;

export default function LivePage() {
  const { state, snapshot } = useLive();
  const [asked, ask] = useState<Asked>(null);
  const latest = useRef(snapshot);
  latest.current = snapshot;
  const onAsk = useCallback((action: Action, key: string) => {
    const call = latest.current?.calls.find((each) => each.key === key);
    if (call) ask({ action, call });
  }, []);
  if (state.name === "logged out") return <Redirect to="/login?next=/live" replace />;
  return (
    <div className="space-y-4">
      <h1 className="text-2xl font-semibold tracking-tight sm:text-3xl">Live calls</h1>
      <ConnectionNotice state={state} hasData={snapshot !== null} />
      {snapshot && (
        <>
          <Summary snapshot={snapshot} />
          <Calls snapshot={snapshot} isOld={state.name !== "live"} onAsk={onAsk} />
          <Engines engines={snapshot.engines} rehearsal={snapshot.rehearsal} />
        </>
      )}
      {asked?.action === "end" && <EndDialog call={asked.call} live={snapshot} onClose={() => ask(null)} />}
      {asked?.action === "hand over" && <HandOverDialog call={asked.call} live={snapshot} onClose={() => ask(null)} />}
    </div>
  );
}

function ConnectionNotice({ state, hasData }: { state: Live["state"]; hasData: boolean }) {
  if (state.name === "lost") {
    return (
      <Notice tone="warn" title={state.reason ? `The bridge has closed the connection: ${state.reason}.` : "The bridge does not answer."} live>
        <p>{hasData ? "What is shown here is old. " : ""}It is asked again all the time.</p>
      </Notice>
    );
  }
  if (state.name === "connecting") {
    return (
      <p role="status" className="py-8 text-center text-soft">
        Loading…
      </p>
    );
  }
  return null;
}

function Summary({ snapshot: { calls, engines, waiting, ready, reasons } }: { snapshot: Snapshot }) {
  const slots = engines.reduce((sum, engine) => sum + engine.slots, 0);
  const taken = engines.reduce((sum, engine) => sum + engine.taken, 0);
  const figures: [string, string][] = [
    ["Calls", String(calls.length)],
    ["In line", String(waiting)],
    ["Slots taken", `${taken} of ${slots}`],
  ];
  return (
    <>
      {!ready && (
        <Notice tone="bad" title="The bridge cannot take another call." live>
          <ul className="list-disc pl-5">
            {reasons.map((reason) => (
              <li key={reason}>{reason}</li>
            ))}
          </ul>
        </Notice>
      )}
      <dl className="grid grid-cols-3 gap-2 sm:gap-4">
        {figures.map(([label, value]) => (
          <div key={label} className="rounded-2xl border border-line bg-panel p-3 sm:p-4">
            <dt className="text-xs text-soft sm:text-sm">{label}</dt>
            <dd className="text-xl font-semibold tabular-nums sm:text-2xl">{value}</dd>
          </div>
        ))}
      </dl>
    </>
  );
}

function Calls({ snapshot, isOld, onAsk }: { snapshot: Snapshot; isOld: boolean; onAsk: (action: Action, key: string) => void }) {
  const { calls, at } = snapshot;
  return (
    <Panel title="Calls" aside={counted(calls.length, "call")} className={classes("transition-opacity", isOld && "opacity-60")}>
      {calls.length === 0 ? (
        <p className="py-4 text-sm text-soft">
          Nobody is on the line.{" "}
          <a href="/talk" className="text-accent underline">
            Talk to the agent
          </a>{" "}
          to see a call here.
        </p>
      ) : (
        // A table on a desk, cards on a phone: the same rows, laid out differently.
        <table className="w-full text-left text-sm max-md:block">
          <thead className="text-xs text-soft max-md:sr-only">
            <tr>
              {["Caller", "Agent", "State", "Who speaks", "Delay", "Engine", "Time", "Actions"].map((name) => (
                <th key={name} scope="col" className="pr-3 pb-2 font-medium">
                  {name === "Actions" ? <span className="sr-only">{name}</span> : name}
                </th>
              ))}
            </tr>
          </thead>
          <tbody className="max-md:block max-md:space-y-3">
            {calls.map((call) => (
              <CallRow key={call.key} {...rowOf(call, at)} onAsk={onAsk} />
            ))}
          </tbody>
        </table>
      )}
    </Panel>
  );
}

const CELL = "py-2 pr-3 align-middle max-md:flex max-md:items-center max-md:justify-between max-md:gap-4 max-md:py-1 max-md:pr-0";
/** A phone's cards have no head, so each cell says what it is. */
const NAMED = "max-md:before:text-xs max-md:before:text-soft max-md:before:content-[attr(data-name)]";

/** Shown anew only when one of its values changes: fifty calls are told of five times a second. */
const CallRow = memo(function CallRow({ onAsk, ...row }: Row & { onAsk: (action: Action, key: string) => void }) {
  const phase = PHASES[row.phase];
  return (
    <tr data-call={row.id} className="border-t border-line max-md:block max-md:rounded-xl max-md:border max-md:p-3">
      <th scope="row" className={classes(CELL, "font-medium wrap-anywhere md:min-w-32")}>
        <span className="min-w-0">
          <bdi className="block tabular-nums">{row.name}</bdi>
          <span className="block text-xs font-normal text-soft">{row.carrier}</span>
        </span>
      </th>
      <td data-name="Agent" className={classes(CELL, NAMED)}>
        <span className="min-w-0 wrap-anywhere">
          {row.persona} {row.recorded && <Badge tone="bad">rec</Badge>}
        </span>
      </td>
      <td data-name="State" className={classes(CELL, NAMED)}>
        <Badge tone={phase?.tone ?? "plain"}>{phase?.label ?? row.phase}</Badge>
        {row.asked && <span className="block text-xs text-soft">{row.asked}</span>}
      </td>
      <td data-name="Who speaks" className={classes(CELL, NAMED)}>
        <span className="inline-block space-y-1">
          <Side name="Caller" speaks={row.callerSpeaks} share={row.callerShare} />
          <Side name="Agent" speaks={row.agentSpeaks} share={row.agentShare} />
        </span>
      </td>
      <td data-name="Delay" className={classes(CELL, NAMED, "tabular-nums")}>
        <span className="whitespace-nowrap">{row.delay}</span>
      </td>
      <td data-name="Engine" className={classes(CELL, NAMED, "md:min-w-40")}>
        <span className="min-w-0 wrap-anywhere text-soft">{row.engine}</span>
      </td>
      <td data-name="Time" className={classes(CELL, NAMED, "tabular-nums")}>
        {row.time}
      </td>
      <td className={classes(CELL, "max-md:justify-end md:text-right")}>
        <span className="inline-flex gap-1.5 whitespace-nowrap">
          <Button disabled={row.asked !== ""} onClick={() => onAsk("hand over", row.callKey)} aria-label={`Hand over ${row.name}`}>
            Hand over
          </Button>
          <Button disabled={row.asked !== ""} onClick={() => onAsk("end", row.callKey)} aria-label={`Hang up ${row.name}`}>
            Hang up
          </Button>
        </span>
      </td>
    </tr>
  );
});

/** Whether one side speaks now, and how much it has spoken. */
function Side({ name, speaks, share }: { name: string; speaks: boolean; share: number }) {
  return (
    <span className="grid grid-cols-[3.25rem_3.5rem] items-center gap-1.5 text-xs">
      <span className={speaks ? "font-semibold text-accent" : "text-soft"}>
        {name}
        {speaks && <span className="sr-only"> speaks</span>}
      </span>
      <span aria-hidden="true" className="block h-1.5 overflow-hidden rounded-full bg-raised">
        <span className={classes("block h-full origin-left rounded-full", speaks ? "bg-accent" : "bg-edge")} style={{ scale: `${share} 1` }} />
      </span>
    </span>
  );
}

function Engines({ engines, rehearsal }: { engines: readonly LiveEngine[]; rehearsal: boolean }) {
  return (
    <Panel title="Engines" aside={rehearsal ? <Badge tone="warn">rehearsal: no model</Badge> : counted(engines.length, "engine")}>
      {engines.length === 0 && <p className="text-sm text-soft">There is no engine.</p>}
      <ul className="grid gap-3 sm:grid-cols-2">
        {engines.map((engine) => (
          <li key={engine.name} data-engine={engine.name} className="min-w-0 rounded-xl border border-line p-3">
            <p className="flex flex-wrap items-center justify-between gap-2">
              <span className="min-w-0 text-sm font-medium break-all">{engine.name}</span>
              <Badge tone={engineTone(engine)}>{engine.state}</Badge>
            </p>
            <Slots engine={engine} />
            <p className="mt-2 flex flex-wrap gap-x-4 gap-y-1 text-xs text-soft tabular-nums">
              <span>
                {engine.taken} of {engine.slots} taken
              </span>
              {engine.warm > 0 && <span>{engine.warm} warm</span>}
              <span>{counted(engine.sessions, "session")}</span>
              <span className={engine.failures ? "text-danger" : undefined}>{counted(engine.failures, "failure")}</span>
              {engine.step_ms !== null && <span>step {milliseconds(engine.step_ms)}</span>}
            </p>
            {engine.reason && <p className="mt-1 text-xs break-words text-danger">{engine.reason}</p>}
          </li>
        ))}
      </ul>
    </Panel>
  );
}

const MOST_DOTS = 64;

/** A dot for each slot: full for calls, half for sessions that are prompted ahead. */
function Slots({ engine: { slots, taken, warm } }: { engine: LiveEngine }) {
  if (slots > MOST_DOTS) return null;
  return (
    <p aria-hidden="true" className="mt-2 flex flex-wrap gap-1">
      {Array.from({ length: slots }, (_, at) => (
        <span key={at} className={classes("size-3 rounded-full border border-accent", at < taken ? "bg-accent" : at < taken + warm ? "bg-accent/40" : "bg-transparent")} />
      ))}
    </p>
  );
}

// What an operator does.

interface DialogProps {
  call: LiveCall;
  live: Snapshot | null;
  onClose: () => void;
}

const NAME_KEY = "pxbridge operator";

/** Who asks: the user of the login, or, without logins, whoever one says one is. */
function useOperator(): { by: string; field: ReactNode } {
  const { data: session } = useQuery(sessionQuery);
  const [name, setName] = useState(() => stored(NAME_KEY) ?? "");
  if (session?.user) return { by: session.user, field: null };
  const change = (written: string) => {
    setName(written);
    store(NAME_KEY, written);
  };
  const field = (
    <Field label="Your name">
      {(id) => (
        <input id={id} value={name} onChange={(event) => change(event.target.value)} maxLength={64} autoComplete="name" placeholder="for the call's record" className={classes(FIELD, "h-11")} />
      )}
    </Field>
  );
  return { by: name.trim(), field };
}

function EndDialog({ call, live, onClose }: DialogProps) {
  const { by, field } = useOperator();
  const end = useMutation({ mutationFn: () => post("/api/calls/end", { call: call.id, by }), onSuccess: onClose });
  return (
    <Dialog title={`Hang up ${callerOf(call)}?`} onClose={onClose}>
      <p className="mt-2 mb-4 text-sm text-soft">The call ends when the agent has finished its sentence. Your name is kept with it.</p>
      {field}
      <Outcome call={call} live={live} error={end.error} />
      <div className="mt-5 flex justify-end gap-2">
        <Button onClick={onClose} autoFocus>
          Keep the call
        </Button>
        <Button look="danger" disabled={end.isPending} onClick={() => end.mutate()}>
          {end.isPending ? "Asking…" : "Hang up"}
        </Button>
      </div>
    </Dialog>
  );
}

function HandOverDialog({ call, live, onClose }: DialogProps) {
  const [written, write] = useState("");
  const numbers = parseNumbers(written);
  const { by, field } = useOperator();
  const handOver = useMutation({ mutationFn: () => post("/api/calls/hand-over", { call: call.id, numbers, by }), onSuccess: onClose });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    handOver.mutate();
  };
  return (
    <Dialog title={`Hand ${callerOf(call)} over to a person?`} onClose={onClose}>
      <form onSubmit={submit}>
        <p className="mt-2 mb-4 text-sm text-soft">
          The agent finishes its sentence and leaves. The call flow rings these numbers, or its own if you leave this empty. Your name is kept with the call.
        </p>
        {call.carrier === "browser" && (
          <div className="mb-4">
            <Notice tone="warn" title="A browser cannot be connected to a phone: for this caller the call ends." />
          </div>
        )}
        <div className="space-y-4">
          <Field label="Numbers, separated by commas">
            {(id) => (
              <input
                id={id}
                inputMode="tel"
                value={written}
                onChange={(event) => write(event.target.value)}
                placeholder="+91 80 1234 5678"
                className={classes(FIELD, "h-11")}
                autoFocus
              />
            )}
          </Field>
          {field}
        </div>
        <Outcome call={call} live={live} error={handOver.error} />
        <div className="mt-5 flex justify-end gap-2">
          <Button onClick={onClose}>Keep the call</Button>
          <Button look="main" type="submit" disabled={handOver.isPending}>
            {handOver.isPending ? "Asking…" : "Hand over"}
          </Button>
        </div>
      </form>
    </Dialog>
  );
}

function Outcome({ call, live, error }: { call: LiveCall; live: Snapshot | null; error: Error | null }) {
  const [wasThere, setWasThere] = useState(true);
  const isThere = live?.calls.some(({ key }) => key === call.key) ?? true;
  useEffect(() => {
    if (!isThere) setWasThere(false);
  }, [isThere]);
  if (error) {
    return (
      <div className="mt-4">
        <Notice tone="bad" title="The bridge refused." live>
          <p>{error.message}</p>
        </Notice>
      </div>
    );
  }
  if (!wasThere) {
    return (
      <div className="mt-4">
        <Notice tone="warn" title="This call is over meanwhile." live />
      </div>
    );
  }
  return null;
}
