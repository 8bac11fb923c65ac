/** What to do about a microphone that cannot be used: each failure has an answer of its own. */

import type { MicrophoneProblem } from "../audio/microphone";
import { Notice } from "../ui/parts";

const HELP: Record<MicrophoneProblem, { title: string; steps: string[] }> = {
  insecure: {
    title: "Browsers give this page no microphone, because it did not come by HTTPS.",
    steps: [
      "On the machine of the bridge itself, open http://localhost with its port instead.",
      "From elsewhere: give the console a certificate (PXBRIDGE_CONSOLE_TLS_CERT_FILE), or forward the port: ssh -L 5051:localhost:5051 HOST, and open http://localhost:5051.",
    ],
  },
  denied: {
    title: "The microphone is blocked for this page.",
    steps: [
      "Click the icon to the left of the address, allow the microphone, and press Talk again.",
      "If it is allowed there, the system may block it: look for the microphone in the privacy settings of your system, and allow this browser.",
    ],
  },
  missing: {
    title: "No microphone was found.",
    steps: ["Plug in a microphone or a headset, or switch it on, and press Talk again.", "If it is plugged in, check that the system's sound settings show it as an input."],
  },
  busy: {
    title: "The microphone is in use, or does not start.",
    steps: ["Close other programs that use it, such as a meeting, and press Talk again.", "If that does not help, unplug it and plug it in again, or choose another microphone."],
  },
  unsupported: {
    title: "This browser cannot use a microphone here.",
    steps: ["Open this page in a current Chrome, Edge, Firefox or Safari, and not inside of another app."],
  },
};

export default function MicrophoneHelp({ problem, detail }: { problem: MicrophoneProblem; detail: string }) {
  const { title, steps } = HELP[problem];
  return (
    <div data-microphone-problem={problem}>
      <Notice tone="bad" title={title} live>
        <ul className="list-disc space-y-1 pl-5">
          {steps.map((step) => (
            <li key={step}>{step}</li>
          ))}
        </ul>
        {detail && <p className="text-xs text-soft">The browser says: {detail}</p>}
      </Notice>
    </div>
  );
}
