/** Talk to the agent. */

import { useQuery } from "@tanstack/react-query";
import { lazy, Suspense, useEffect, useState, useSyncExternalStore } from "react";
import { queryClient, sessionQuery, talkQuery } from "../api/client";
import { TalkSession } from "../audio/talk-session";
import { Button, Field, FIELD, Notice } from "../ui/parts";
import { setTalkActive } from "./active";
import { CallPanel } from "./call-panel";
import { chatUrl, engineUrl, type Offer, offerOf, problemOf, type Setup, storedSetup, storeSetup } from "./setup";
import { SetupPanel } from "./setup-panel";

/** Most talks need none. */
const MicrophoneHelp = lazy(() => import("./microphone-help"));

/** One for the document's life: a talk goes on while another page is looked at. */
const session = new TalkSession();
session.subscribe(() => setTalkActive(session.isActive));
window.addEventListener("pagehide", () => session.hangUp());
window.addEventListener("beforeunload", (event) => {
  if (session.isActive) event.preventDefault(); // the browser asks
});

export default function TalkPage() {
  const query = new URLSearchParams(location.search);
  const written = query.get("engine");
  const talk = useQuery({ ...talkQuery, enabled: written === null });
  if (written !== null) return <Bare written={written} mayUseWebCodecs={query.get("codec") !== "wasm"} />;
  if (talk.isPending) {
    return (
      <p role="status" className="py-16 text-center text-soft">
        Loading…
      </p>
    );
  }
  if (talk.isError) {
    return (
      <Notice tone="bad" title="The bridge does not say what can be talked to." live>
        <p>{talk.error.message}</p>
        <Button onClick={() => void talk.refetch()}>Try again</Button>
      </Notice>
    );
  }
  const base = new URL("/api/chat", location.href.replace(/^http/, "ws"));
  return <Talk base={base} isForeign={false} offer={offerOf(talk.data)} mayUseWebCodecs={query.get("codec") !== "wasm"} />;
}

/** Straight to an engine, past the bridge: `?engine=ws://host:8998/api/chat`. */
function Bare({ written, mayUseWebCodecs }: { written: string; mayUseWebCodecs: boolean }) {
  const base = engineUrl(written, location.protocol === "https:");
  if (base === null) return <EngineAddress written={written} />;
  return <Talk base={base} isForeign offer={offerOf({ engine: null })} mayUseWebCodecs={mayUseWebCodecs} />;
}

function EngineAddress({ written }: { written: string }) {
  return (
    <form className="mx-auto mt-8 max-w-lg space-y-4" action="/talk">
      <Notice tone="warn" title="That is no address of an engine.">
        <p>An address looks like ws://localhost:8998/api/chat.</p>
      </Notice>
      <Field label="Engine">{(id) => <input id={id} name="engine" defaultValue={written} className={`${FIELD} h-11`} />}</Field>
      <Button look="main" type="submit">
        Use this engine
      </Button>
    </form>
  );
}

function Talk({ base, isForeign, offer, mayUseWebCodecs }: { base: URL; isForeign: boolean; offer: Offer; mayUseWebCodecs: boolean }) {
  const snapshot = useSyncExternalStore(session.subscribe, session.getSnapshot);
  const [setup, setSetup] = useState(() => storedSetup(offer));
  const [shownSetup, showSetup] = useState(() => !session.isActive);
  const change = (part: Partial<Setup>) => {
    setSetup((before) => {
      const after = { ...before, ...part };
      storeSetup(after);
      return after;
    });
    if (part.microphoneId !== undefined || part.headphones !== undefined) {
      void session.useMicrophone(part.microphoneId ?? setup.microphoneId, part.headphones ?? setup.headphones);
    }
    if (part.loudspeakerId !== undefined) void session.useLoudspeaker(part.loudspeakerId);
  };
  const start = () => {
    const { microphoneId, loudspeakerId, headphones } = setup;
    showSetup(false);
    void session.start({ url: chatUrl(base, setup, offer), isForeign, microphoneId, loudspeakerId, headphones, mayUseWebCodecs });
  };
  const { state } = snapshot;
  const hasFailed = state.name === "ended" && state.isFault;
  useEffect(() => {
    // The login may be over, which a refused WebSocket does not tell: then the page goes to the login.
    if (hasFailed && !isForeign) void queryClient.invalidateQueries(sessionQuery);
  }, [hasFailed, isForeign]);
  if (!shownSetup && state.name !== "idle" && state.name !== "no microphone") {
    return <CallPanel session={session} snapshot={snapshot} setup={setup} offer={offer} onChange={change} onAgain={start} onSetup={() => showSetup(true)} />;
  }
  return (
    <>
      {offer.rehearsal && (
        <div className="mb-4">
          <Notice tone="warn" title="This is the rehearsal engine, not PersonaPlex.">
            <p>It has no model: it greets, and repeats what you say. It is here to try microphone and connection.</p>
          </Notice>
        </div>
      )}
      {isForeign && (
        <div className="mb-4">
          <Notice tone="warn" title={`You will talk to the engine at ${base.host}.`}>
            <p>It hears your microphone, past the bridge: nothing is recorded here, and there is no line to wait in.</p>
          </Notice>
        </div>
      )}
      {state.name === "no microphone" && (
        <div className="mb-4">
          <Suspense>
            <MicrophoneHelp problem={state.problem} detail={state.detail} />
          </Suspense>
        </div>
      )}
      <SetupPanel setup={setup} offer={offer} devices={snapshot.devices} problem={problemOf(setup, offer)} onChange={change} onStart={start} />
    </>
  );
}
