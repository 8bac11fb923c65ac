/** The microphone: how it is asked for, and each way in which that fails. */

export type MicrophoneProblem =
  /** Browsers give microphones only to pages that came by HTTPS or from localhost. */
  | "insecure"
  | "denied"
  | "missing"
  | "busy"
  | "unsupported";

export class MicrophoneError extends Error {
  constructor(
    readonly problem: MicrophoneProblem,
    readonly detail: string,
  ) {
    super(detail || problem);
  }
}

export interface MicrophoneChoice {
  /** Empty for the system's own choice. */
  deviceId: string;
  /** With headphones nothing has to be cancelled, and the voice stays as it is. */
  headphones: boolean;
}

/**
 * Opens the microphone.
 * @throws MicrophoneError
 */
export async function openMicrophone(choice: MicrophoneChoice): Promise<MediaStream> {
  if (!window.isSecureContext) throw new MicrophoneError("insecure", location.origin);
  if (!navigator.mediaDevices?.getUserMedia) throw new MicrophoneError("unsupported", "");
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: constraints(choice) });
  } catch (error) {
    const isGone = error instanceof DOMException && error.name === "OverconstrainedError";
    if (isGone && choice.deviceId) return openMicrophone({ ...choice, deviceId: "" }); // the chosen one was unplugged
    throw new MicrophoneError(problemOf(error), error instanceof Error ? error.message : String(error));
  }
}

function constraints({ deviceId, headphones }: MicrophoneChoice): MediaTrackConstraints {
  return {
    echoCancellation: !headphones,
    noiseSuppression: !headphones,
    autoGainControl: true,
    channelCount: 1,
    ...(deviceId && { deviceId: { exact: deviceId } }),
  };
}

export function problemOf(error: unknown): MicrophoneProblem {
  switch (error instanceof DOMException ? error.name : "") {
    case "NotAllowedError":
    case "SecurityError":
      return "denied";
    case "NotFoundError":
    case "OverconstrainedError":
      return "missing";
    case "NotReadableError":
    case "AbortError":
      return "busy";
    default:
      return "unsupported";
  }
}

/** A device to choose. Its label is empty before the microphone was allowed once. */
export interface Device {
  id: string;
  label: string;
}

export interface Devices {
  microphones: Device[];
  /** Empty where the browser cannot choose. */
  loudspeakers: Device[];
}

const canChooseLoudspeaker = typeof AudioContext !== "undefined" && "setSinkId" in AudioContext.prototype;

export async function listDevices(): Promise<Devices> {
  const all = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
  // "default" and "communications" repeat one of the others; the system's own choice stands first anyway.
  const of = (kind: MediaDeviceKind) =>
    all
      .filter((each) => each.kind === kind && each.deviceId && !["default", "communications"].includes(each.deviceId))
      .map((each) => ({ id: each.deviceId, label: each.label }));
  return { microphones: of("audioinput"), loudspeakers: canChooseLoudspeaker ? of("audiooutput") : [] };
}
