//! Towards the phone: the agent's sound, the bridge's own, and the messages that carry them.
//!
//! It begins before an engine speaks, plays the bridge's own sound while none does, and ends when the caller has
//! heard the last word.

use std::fmt::Write as _;

use crate::carrier::{MediaWriter, Messages};
use crate::codec::engine::EngineCodec;
use crate::downlink::announcement::Announcement;
use crate::downlink::playout::{Mark, Playout, PlayoutConfig, PlayoutStats, Step};
use crate::rate::{LineRate, PACKET_MS};
use crate::tap::Tap;
use crate::uplink::intake::Intake;

/// Silence is sent to a caller who waits for the engine, in pieces of this length: short, so that the agent's first
/// words do not queue behind it.
const WAITING_SILENCE_MS: u32 = PACKET_MS;

/// The interval. Some carriers end a stream that gets no audio within 2 s.
const WAITING_EVERY_US: u64 = 1_000_000;

/// The bridge's own sound is sent in payloads of this many packets: as long as one of the engine's frames.
const OWN_PACKETS: usize = 4;

/// The next one is sent when the phone's side holds less than this. It covers the network's usual delays, and an
/// agent that begins to speak waits for 140 ms at most.
const OWN_REFILL_US: u64 = 60_000;

/// Name of the mark behind the last words; all others are made of two numbers.
const LAST_MARK: &str = "last";

/// The time for which a missing mark is waited for, after the last words should have been played.
const LAST_MARK_GRACE_US: u64 = 500_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// No engine speaks: the bridge's own sound if there is any, else silence now and then.
    Waiting { next_us: u64 },
    /// The engine's audio goes to the phone.
    Live,
    /// The conversation is over, and the rest of the engine's audio is being sent.
    Finishing,
    /// The call is over, and the rest of the bridge's own sound is being sent.
    Parting,
    /// All is sent, and the mark behind it is waited for until `give_up_us`.
    LastSent { give_up_us: u64 },
    /// The caller has heard the last words.
    Drained,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Downlink {
    rate: LineRate,
    playout: Playout,
    writer: Box<dyn MediaWriter>,
    life: Life,
    own: Announcement,
    first_sound_us: Option<u64>,
    first_audio_us: Option<u64>,
    agent_from_us: Option<u64>,
    /// The audio that the caller hears, for a recording.
    tap: Option<Tap>,
    decoded: Vec<f32>,
    paced: Vec<f32>,
    mark_name: String,
}

impl Downlink {
    pub(super) fn new(rate: LineRate, writer: Box<dyn MediaWriter>, config: PlayoutConfig) -> Self {
        Self {
            rate,
            playout: Playout::new(rate, config),
            writer,
            life: Life::Waiting { next_us: 0 },
            own: Announcement::new(rate),
            first_sound_us: None,
            first_audio_us: None,
            agent_from_us: None,
            tap: None,
            decoded: Vec::new(),
            paced: Vec::new(),
            mark_name: String::new(),
        }
    }

    /// Bytes came from the engine. Returns how many samples they completed.
    pub(super) fn receive(
        &mut self,
        bytes: &[u8],
        caller: &Intake,
        codec: &mut dyn EngineCodec,
        now_us: u64,
        out: &mut Messages,
    ) -> usize {
        self.decoded.clear();
        codec.decode(bytes, &mut self.decoded);
        if self.decoded.is_empty() {
            return 0;
        }
        if let Life::Waiting { .. } = self.life {
            self.fade_out(now_us, out);
            self.life = Life::Live;
        }
        self.playout.expect_beat(caller.beat_us());
        self.playout.set_not_given_us(caller.not_given_us());
        self.paced.clear();
        let step = self
            .playout
            .push(&self.decoded, now_us, caller.voice_level(), &mut self.paced);
        let came = self.decoded.len();
        if !self.own.is_empty() {
            // It covered a gap: it fades under the agent's first word.
            self.decoded.clear();
            self.own.cut(&mut self.decoded);
            let faded = self.paced.iter_mut().zip(&self.decoded);
            faded.for_each(|(agent, own)| *agent += own);
        }
        self.send(step, now_us, out);
        came
    }

    /// Sends what is due when nothing came.
    pub(super) fn poll(&mut self, codec: &mut dyn EngineCodec, now_us: u64, out: &mut Messages) {
        match self.life {
            Life::Waiting { next_us } => {
                if !self.own.is_empty() {
                    self.send_own(now_us, out);
                } else if now_us >= next_us {
                    self.paced.clear();
                    self.paced.resize(self.rate.samples(WAITING_SILENCE_MS), 0.0);
                    self.write_own(now_us, out);
                } else {
                    return;
                }
                self.life = Life::Waiting {
                    next_us: now_us + WAITING_EVERY_US,
                };
            }
            Life::Parting => {
                self.send_own(now_us, out);
                if self.own.is_empty() {
                    self.write_last_mark(now_us, out);
                }
            }
            Life::LastSent { give_up_us } => {
                if now_us >= give_up_us {
                    self.life = Life::Drained;
                }
            }
            Life::Drained => {}
            Life::Live | Life::Finishing => {
                self.paced.clear();
                let was_bridging = self.playout.is_bridging();
                let mut conceal = |samples: usize, out: &mut Vec<f32>| codec.conceal(samples, out);
                let step = self.playout.poll(now_us, &mut conceal, &mut self.paced);
                if self.playout.is_bridging() {
                    self.own.lay_over(&mut self.paced);
                }
                self.send(step, now_us, out);
                if was_bridging && self.playout.is_idle() && self.life == Life::Live {
                    // A gap this long is not bridged any more. Until the engine speaks, it counts as gone.
                    self.life = Life::Waiting { next_us: now_us };
                }
            }
        }
    }

    /// When [`Downlink::poll`] is due if nothing comes before; the next ping too.
    pub(super) fn wake_us(&self) -> Option<u64> {
        let audio_us = match self.life {
            Life::Waiting { .. } | Life::Parting if !self.own.is_empty() => Some(self.own_due_us()),
            Life::Parting => Some(0),
            Life::Waiting { next_us } => Some(next_us),
            Life::LastSent { give_up_us } => Some(give_up_us),
            Life::Drained => None,
            Life::Live | Life::Finishing => self.playout.wake_us(),
        };
        let ping_us = match self.life {
            Life::Waiting { .. } | Life::Live => self.playout.ping_wake_us(),
            Life::Finishing | Life::Parting | Life::LastSent { .. } | Life::Drained => None,
        };
        audio_us.into_iter().chain(ping_us).min()
    }

    /// Whether the phone's socket shall be pinged now.
    pub(super) fn ping_due(&mut self, now_us: u64) -> bool {
        self.playout.ping_due(now_us)
    }

    /// A ping came back from the phone's end. `return_jitter_us`: how much the delay of the return path varies.
    pub(super) fn pong(&mut self, rtt_us: u64, return_jitter_us: u64, now_us: u64) {
        self.playout.pong(rtt_us, return_jitter_us, now_us);
    }

    /// The phone has played everything before a mark; `return_jitter_us` as for [`Downlink::pong`]. A mark that is
    /// not ours is ignored.
    pub(super) fn mark_played(&mut self, name: &str, return_jitter_us: u64, now_us: u64) {
        if name == LAST_MARK {
            if let Life::LastSent { .. } = self.life {
                self.life = Life::Drained;
            }
        } else if let Some((epoch, number)) = name.split_once('-')
            && let (Ok(epoch), Ok(number)) = (epoch.parse(), number.parse())
        {
            let mark = Mark { epoch, number };
            self.playout.mark_echoed(mark, return_jitter_us, now_us);
        }
    }

    /// Queues the bridge's own sound. It is played while no engine speaks, and over the gap that a silent engine
    /// leaves.
    pub(super) fn play(&mut self, pcm: &[f32], codec: &mut dyn EngineCodec, now_us: u64, out: &mut Messages) {
        if self.life == Life::Live && self.playout.is_idle() {
            self.life = Life::Waiting { next_us: now_us }; // all of its audio was sent
        }
        match self.life {
            Life::Waiting { .. } => {
                self.own.push(pcm);
                self.poll(codec, now_us, out);
            }
            Life::Live if self.playout.is_bridging() => self.own.push(pcm),
            _ => {}
        }
    }

    /// Ends the bridge's own sound with a fade.
    pub(super) fn fade_out(&mut self, now_us: u64, out: &mut Messages) {
        self.paced.clear();
        self.own.cut(&mut self.paced);
        self.write_own(now_us, out);
    }

    /// The time for which the bridge's own sound will still be heard.
    pub(super) fn playing_us(&self, now_us: u64) -> u64 {
        match self.life {
            Life::Live if self.own.is_empty() => 0,
            Life::Waiting { .. } | Life::Parting | Life::Live => {
                let held_us = self.playout.drained_at_us().saturating_sub(now_us);
                held_us + self.rate.us(self.own.len()) as u64
            }
            Life::Finishing | Life::LastSent { .. } | Life::Drained => 0,
        }
    }

    /// The engine is gone, and another may come: the rest of its audio is sent.
    pub(super) fn close_engine(&mut self, codec: &mut dyn EngineCodec, now_us: u64, out: &mut Messages) {
        if self.life != Life::Live {
            return;
        }
        self.paced.clear();
        let mut conceal = |samples: usize, out: &mut Vec<f32>| codec.conceal(samples, out);
        self.playout.stop(now_us, &mut conceal, &mut self.paced);
        if !self.paced.is_empty() {
            self.write_media(out);
        }
        self.life = Life::Waiting {
            next_us: now_us + WAITING_EVERY_US,
        };
    }

    /// Drops everything that the caller has not heard.
    pub(super) fn flush(&mut self, now_us: u64, out: &mut Messages) {
        self.own.clear();
        if self.playout.flush(now_us) {
            self.write_clear(now_us, out);
        }
        if self.life == Life::Finishing {
            self.write_last_mark(now_us, out);
        }
    }

    /// Nothing more will be said: sends the rest and, when all is sent, a mark behind it.
    pub(super) fn finish(&mut self, codec: &mut dyn EngineCodec, now_us: u64, out: &mut Messages) {
        match self.life {
            Life::Waiting { .. } if self.playing_us(now_us) == 0 => self.life = Life::Drained,
            Life::Waiting { .. } => {
                self.life = Life::Parting;
                self.poll(codec, now_us, out);
            }
            Life::Live => {
                self.life = Life::Finishing;
                // The last samples fill no packet: a fading continuation of them completes it.
                let packet = self.rate.samples(PACKET_MS);
                self.decoded.clear();
                codec.conceal(packet, &mut self.decoded);
                for (i, sample) in self.decoded.iter_mut().rev().enumerate() {
                    *sample *= i as f32 / packet as f32;
                }
                self.paced.clear();
                let step = self.playout.push(&self.decoded, now_us, 0.0, &mut self.paced);
                self.send(step, now_us, out);
            }
            Life::Finishing | Life::Parting | Life::LastSent { .. } | Life::Drained => {}
        }
    }

    /// Whether the caller has heard the last words, or waiting for that is over.
    pub(super) fn is_drained(&self) -> bool {
        self.life == Life::Drained
    }

    pub(super) fn paused_us(&self) -> Option<u64> {
        self.playout.paused_us()
    }

    /// When the caller began to hear anything, the bridge's own sound or an engine, as estimated. Silence sent to a
    /// caller who waits does not count.
    pub(super) fn first_sound_us(&self) -> Option<u64> {
        self.first_sound_us
    }

    /// When the caller began to hear an engine, as estimated.
    pub(super) fn first_audio_us(&self) -> Option<u64> {
        self.first_audio_us
    }

    /// When the caller began to hear the engine that came after [`Downlink::expect_agent`], as estimated.
    pub(super) fn agent_from_us(&self) -> Option<u64> {
        self.agent_from_us
    }

    /// The engine that spoke is gone: the first sound of the next one is noted.
    pub(super) fn expect_agent(&mut self) {
        self.agent_from_us = None;
    }

    /// Samples that engines sent.
    pub(super) fn received_samples(&self) -> u64 {
        self.playout.received_samples()
    }

    pub(super) fn stats(&self) -> PlayoutStats {
        self.playout.stats()
    }

    /// From now on keeps what the caller hears, for [`Downlink::tap`].
    pub(super) fn keep_heard(&mut self) {
        self.tap.get_or_insert_with(|| Tap::new(self.rate));
    }

    pub(super) fn tap(&mut self) -> Option<&mut Tap> {
        self.tap.as_mut()
    }

    fn send(&mut self, step: Step, now_us: u64, out: &mut Messages) {
        if step == Step::ClearThenSend {
            self.write_clear(now_us, out);
        }
        if !self.paced.is_empty() {
            let heard_from_us = self.heard_from_us();
            self.first_sound_us.get_or_insert(heard_from_us);
            self.first_audio_us.get_or_insert(heard_from_us);
            self.agent_from_us.get_or_insert(heard_from_us);
            self.write_media(out);
            self.write_mark(now_us, out);
        }
        if self.life == Life::Finishing && self.playout.buffered_samples() < self.rate.samples(PACKET_MS) {
            self.write_last_mark(now_us, out);
        }
    }

    fn own_due_us(&self) -> u64 {
        self.playout.drained_at_us().saturating_sub(OWN_REFILL_US)
    }

    fn send_own(&mut self, now_us: u64, out: &mut Messages) {
        while !self.own.is_empty() && now_us >= self.own_due_us() {
            self.paced.clear();
            let packets = self.playout.payload_samples() / self.rate.samples(PACKET_MS);
            self.own.take(OWN_PACKETS.max(packets), &mut self.paced);
            self.write_own(now_us, out);
            if self.first_sound_us.is_none() {
                self.first_sound_us = Some(self.heard_from_us());
            }
        }
    }

    /// Sends the bridge's own sound, with silence behind it where larger payloads are wanted.
    fn write_own(&mut self, now_us: u64, out: &mut Messages) {
        if !self.paced.is_empty() {
            let samples = self.paced.len().max(self.playout.payload_samples());
            self.paced.resize(samples, 0.0);
            self.playout.sent_own(self.paced.len(), now_us);
            self.write_media(out);
            self.write_mark(now_us, out);
        }
    }

    /// Without a mark that comes back, the estimated end of the playback counts.
    fn write_last_mark(&mut self, now_us: u64, out: &mut Messages) {
        self.writer.mark(LAST_MARK, out);
        self.life = Life::LastSent {
            give_up_us: self.playout.drained_at_us().max(now_us) + LAST_MARK_GRACE_US,
        };
    }

    /// When the audio in `paced` begins to be heard. It is the last that the phone's side holds.
    fn heard_from_us(&self) -> u64 {
        let duration_us = self.rate.us_until_over(self.paced.len());
        self.playout.drained_at_us().saturating_sub(duration_us)
    }

    fn write_media(&mut self, out: &mut Messages) {
        let at_us = self.heard_from_us();
        if let Some(tap) = &mut self.tap {
            // A playback that proved shorter than estimated does not play two sounds at once.
            tap.push(&self.paced, at_us.max(tap.end_us()));
        }
        self.writer.media(&self.paced, out);
    }

    fn write_mark(&mut self, now_us: u64, out: &mut Messages) {
        if let Some(mark) = self.playout.mark_due(now_us) {
            self.mark_name.clear();
            // Writing to memory cannot fail.
            let _ = write!(self.mark_name, "{}-{}", mark.epoch, mark.number);
            self.writer.mark(&self.mark_name, out);
        }
    }

    fn write_clear(&mut self, now_us: u64, out: &mut Messages) {
        if let Some(tap) = &mut self.tap {
            tap.cut(now_us);
        }
        self.writer.clear(out);
    }
}
