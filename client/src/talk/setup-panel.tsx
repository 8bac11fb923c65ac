/** Before a talk: who the agent is, which voice it has, and what one speaks and listens with. */

import { useId } from "react";
import type { Devices } from "../audio/microphone";
import { Badge, Button, Card, CardGroup, classes, Field, FIELD, Panel, Toggle } from "../ui/parts";
import { characters, DEFAULT_SAMPLING, MOST_TOP_K, type Offer, PRESETS, type Sampling, type Setup, topK, voiceGroup, voiceName } from "./setup";

interface Props {
  setup: Setup;
  offer: Offer;
  devices: Devices;
  /** Why no talk can begin; null if it can. */
  problem: string | null;
  onChange: (part: Partial<Setup>) => void;
  onStart: () => void;
}

export function SetupPanel({ setup, offer, devices, problem, onChange, onStart }: Props) {
  return (
    <form
      className="flex flex-col gap-4 lg:grid lg:grid-cols-[1fr_20rem]"
      onSubmit={(event) => {
        event.preventDefault();
        if (problem === null) onStart();
      }}
    >
      <div className="min-w-0 space-y-4">
        <h1 className="text-2xl font-semibold tracking-tight sm:text-3xl">Talk to the agent</h1>
        {offer.personas.length > 0 && <Personas setup={setup} offer={offer} onChange={onChange} />}
        {setup.persona === null && (
          <>
            <Prompt setup={setup} offer={offer} onChange={onChange} />
            <Voices setup={setup} offer={offer} onChange={onChange} />
          </>
        )}
        {offer.samples && <SamplingFields sampling={setup.sampling} offer={offer} onChange={(sampling) => onChange({ sampling })} />}
      </div>
      {/* On a phone the button stays in sight: there it is a part of the form itself, and not of a column. */}
      <div className="contents lg:sticky lg:top-4 lg:block lg:space-y-4 lg:self-start">
        <Panel title="Sound">
          <DeviceFields setup={setup} devices={devices} onChange={onChange} />
        </Panel>
        <p className="px-1 text-sm text-soft">
          {isRecorded(setup, offer) ? "The bridge records this call. " : ""}
          The agent hears you from the moment it says so, and you may interrupt it at any time.
        </p>
        <div className="sticky bottom-3 z-10 space-y-2 lg:static">
          {problem !== null && (
            <p role="status" className="rounded-lg bg-warn-tint px-3 py-2 text-sm text-warn">
              {problem}
            </p>
          )}
          <Button look="main" large type="submit" className="w-full shadow-lg lg:shadow-none" disabled={problem !== null}>
            <MicrophoneIcon /> Talk
          </Button>
        </div>
      </div>
    </form>
  );
}

function isRecorded(setup: Setup, offer: Offer): boolean {
  return offer.personas.find(({ name }) => name === setup.persona)?.recorded ?? offer.recorded;
}

type PartProps = Pick<Props, "setup" | "offer" | "onChange">;

function Personas({ setup, offer, onChange }: PartProps) {
  const OWN = "";
  return (
    <Panel title="Who answers">
      <CardGroup
        label="Who answers"
        value={setup.persona ?? OWN}
        onChange={(name) => onChange({ persona: name === OWN ? null : name })}
        className="grid gap-2 sm:grid-cols-2"
      >
        <Card value={OWN} className="min-w-0 p-3">
          <span className="block text-sm font-semibold">An agent of your own</span>
          <span className="line-clamp-2 text-xs text-soft">Choose a voice, and say who it is.</span>
        </Card>
        {offer.personas.map((persona) => (
          <Card key={persona.name} value={persona.name} className="min-w-0 p-3">
            <span className="flex items-center gap-2 text-sm font-semibold">
              <span className="min-w-0 break-words">{persona.name}</span> {persona.recorded && <Badge tone="warn">recorded</Badge>}
            </span>
            <span className="line-clamp-2 text-xs break-words text-soft">
              {voiceName(persona.voice)} · {persona.prompt}
            </span>
          </Card>
        ))}
      </CardGroup>
    </Panel>
  );
}

function Prompt({ setup, offer, onChange }: PartProps) {
  const id = useId();
  const count = characters(setup.prompt);
  const isTooLong = count > offer.promptLimit;
  return (
    <Panel>
      <label htmlFor={id} className="mb-2 block text-base font-semibold">
        Who the agent is
      </label>
      <div className="mb-2 flex flex-wrap gap-1.5" role="group" aria-label="Examples">
        {PRESETS.map(({ name, prompt }) => (
          <button
            key={name}
            type="button"
            aria-pressed={setup.prompt === prompt}
            onClick={() => onChange({ prompt })}
            className="rounded-full border border-line bg-raised px-3 py-1 text-sm hover:border-edge aria-pressed:border-accent aria-pressed:bg-tint aria-pressed:text-accent"
          >
            {name}
          </button>
        ))}
      </div>
      <textarea
        id={id}
        rows={5}
        value={setup.prompt}
        onChange={(event) => onChange({ prompt: event.target.value })}
        aria-describedby={`${id}-count`}
        aria-invalid={isTooLong}
        className={classes(FIELD, "resize-y py-2 leading-relaxed")}
        placeholder="You work for …, and your name is …"
      />
      <p id={`${id}-count`} className={classes("mt-1 text-right text-xs tabular-nums", isTooLong ? "font-semibold text-danger" : "text-soft")}>
        {count} of {offer.promptLimit} characters
      </p>
    </Panel>
  );
}

function Voices({ setup, offer, onChange }: PartProps) {
  const groups = new Map<string, string[]>();
  for (const voice of offer.voices) groups.set(voiceGroup(voice), [...(groups.get(voiceGroup(voice)) ?? []), voice]);
  return (
    <Panel title="Voice">
      <CardGroup label="Voice" value={setup.voice} onChange={(voice) => onChange({ voice })} className="grid gap-x-6 gap-y-3 sm:grid-cols-2">
        {[...groups].map(([group, voices]) => (
          <div key={group}>
            <p className="mb-1 text-xs font-medium text-soft">{group}</p>
            <div className="grid grid-cols-4 xl:grid-cols-5 gap-1.5">
              {voices.map((voice) => (
                <Card key={voice} value={voice} className="px-2 py-1.5">
                  <VoiceMark voice={voice} />
                  <span className="block text-xs font-medium">{voiceName(voice)}</span>
                </Card>
              ))}
            </div>
          </div>
        ))}
      </CardGroup>
    </Panel>
  );
}

/** A picture for each name, so that voices are found again. It means nothing else. */
function VoiceMark({ voice }: { voice: string }) {
  let seed = 7;
  for (const char of voice) seed = (seed * 31 + char.charCodeAt(0)) % 9973;
  const bars = Array.from({ length: 11 }, () => 3 + ((seed = (seed * 7919 + 13) % 9973) % 15));
  return (
    <svg viewBox="0 0 66 20" className="mb-1 h-4 w-full text-accent" preserveAspectRatio="none" aria-hidden="true">
      {bars.map((height, at) => (
        <rect key={at} x={at * 6 + 1} y={10 - height / 2} width="3" height={height} rx="1.5" className="fill-current" />
      ))}
    </svg>
  );
}

function SamplingFields({ sampling, offer, onChange }: { sampling: Sampling; offer: Offer; onChange: (sampling: Sampling) => void }) {
  const set = (part: Partial<Sampling>) => onChange({ ...sampling, ...part });
  const slider = (label: string, name: "textTemperature" | "audioTemperature") => (
    <Field label={`${label}: ${sampling[name].toFixed(2)}`}>
      {(id) => (
        <input
          id={id}
          type="range"
          min={0}
          max={1.5}
          step={0.05}
          value={sampling[name]}
          onChange={(event) => set({ [name]: Number(event.target.value) })}
          className="w-full accent-accent"
        />
      )}
    </Field>
  );
  const whole = (label: string, name: "textTopK" | "audioTopK") => (
    <Field label={label}>
      {(id) => (
        <input
          id={id}
          type="number"
          min={1}
          max={MOST_TOP_K}
          value={sampling[name]}
          onChange={(event) => set({ [name]: topK(Number(event.target.value)) })}
          className={classes(FIELD, "h-10")}
        />
      )}
    </Field>
  );
  return (
    <details className="rounded-2xl border border-line bg-panel p-4 sm:p-5">
      <summary className="text-base font-semibold">Sampling</summary>
      <div className="mt-3 grid gap-4 sm:grid-cols-2">
        {slider("Temperature of words", "textTemperature")}
        {slider("Temperature of sound", "audioTemperature")}
        {whole("Top-k of words", "textTopK")}
        {whole("Top-k of sound", "audioTopK")}
        <Field label="Seed">
          {(id) => (
            <input
              id={id}
              inputMode="numeric"
              value={sampling.seed}
              onChange={(event) => set({ seed: event.target.value })}
              placeholder="random"
              className={classes(FIELD, "h-10")}
            />
          )}
        </Field>
        <div className="self-end">
          <Button onClick={() => onChange(DEFAULT_SAMPLING)}>As PersonaPlex has it</Button>
        </div>
      </div>
      {offer.isBare && <p className="mt-3 text-xs text-soft">NVIDIA's own server ignores these, and fails with a seed. Leave it empty there.</p>}
    </details>
  );
}

export function DeviceFields({ setup, devices, onChange }: { setup: Setup; devices: Devices; onChange: (part: Partial<Setup>) => void }) {
  const choice = (label: string, name: "microphoneId" | "loudspeakerId", of: Devices["microphones"]) => (
    <Field label={label}>
      {(id) => (
        <select id={id} value={of.some((each) => each.id === setup[name]) ? setup[name] : ""} onChange={(event) => onChange({ [name]: event.target.value })} className={classes(FIELD, "h-10")}>
          <option value="">As the system has it</option>
          {of.map((device, at) => (
            <option key={device.id} value={device.id}>
              {device.label || `${label} ${at + 1}`}
            </option>
          ))}
        </select>
      )}
    </Field>
  );
  return (
    <div className="space-y-4">
      {choice("Microphone", "microphoneId", devices.microphones)}
      {devices.loudspeakers.length > 0 && choice("Loudspeaker", "loudspeakerId", devices.loudspeakers)}
      <Toggle
        label="I wear headphones"
        hint="Your voice is sent as it is: nothing has to be cancelled."
        checked={setup.headphones}
        onChange={(headphones) => onChange({ headphones })}
      />
    </div>
  );
}

export function MicrophoneIcon({ muted = false }: { muted?: boolean }) {
  return (
    <svg viewBox="0 0 24 24" className="size-5 fill-none stroke-current" strokeWidth="2" strokeLinecap="round" strokeLinejoin="round" aria-hidden="true">
      <rect x="9" y="3" width="6" height="11" rx="3" />
      <path d="M5 11a7 7 0 0014 0M12 18v3" />
      {muted && <path d="M4 4l16 16" />}
    </svg>
  );
}
