//! A whole call: what the phone and the engine send goes in with the time, and what follows from it comes out.
//!
//! The one idea: each input returns one [`LineOutput`], which holds everything that follows from it. So whoever owns the
//! sockets makes one call per message, and has nothing to remember between two.

use crate::carrier::exotel::Encoding;
use crate::codec::stream::StreamStats;
use crate::downlink::playout::{PlayoutConfig, PlayoutStats};
use crate::error::Result;
use crate::halves::{Downlink, MediaStats, Uplink};
use crate::tap::Piece;
use crate::uplink::intake::{IntakeConfig, IntakeStats};

/// How much of a call is measured before its sample rate is believed.
const RATE_CHECK_US: u64 = 2_000_000;
/// The same for a line that stalled meanwhile: so long that no stall looks like another rate.
const RATE_CHECK_AGAIN_US: u64 = 10_000_000;
/// Rates in use differ by a factor of at least 1.5. Chunks and jitter make a difference of far less than this.
const RATE_TOLERANCE: f64 = 0.25;
/// The rates that a line may have.
const RATES_HZ: [u32; 3] = [8_000, 16_000, 24_000];

/// Something that happened on a line, beside the sound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// The first sound of an agent is on its way to the caller.
    AgentHeard {
        /// How long the caller had waited for it: since the line's first input, or since the last engine was closed.
        after_us: u64,
    },
    /// After [`Line::finish`]: the caller has heard the last words, or waiting for that is over.
    AllPlayed,
    /// The engine does not answer, so from now on audio is held back from it.
    EngineSilent {
        /// For how long it has owed an answer.
        for_us: u64,
    },
    /// The phone sends at another rate than the line has: voices sound slow and deep, or fast and high.
    RateMismatch {
        /// The line's rate.
        claimed_hz: u32,
        /// Samples that came per second.
        measured_hz: u32,
        /// The rate that is nearest to that.
        likely_hz: u32,
    },
}

/// Everything that follows from one input.
#[derive(Debug, Default)]
pub struct LineOutput {
    /// Messages for the phone's socket, in their order.
    pub to_phone: Vec<Vec<u8>>,
    /// Bytes for the engine; may be none.
    pub to_engine: Vec<u8>,
    /// Whether the phone's socket shall be pinged now; see [`Line::pong`].
    pub ping: bool,
    /// When [`Line::poll`] is due if nothing arrives before; `None` for never.
    pub wake_us: Option<u64>,
    /// What happened.
    pub events: Vec<Event>,
}

/// What is chosen about a line.
#[derive(Debug, Clone, Default)]
pub struct LineConfig {
    /// Of the way towards the engine.
    pub intake: IntakeConfig,
    /// Of the way towards the phone.
    pub playout: PlayoutConfig,
    /// Identifies the first Ogg stream towards an engine; each engine that is opened gets the next number.
    pub serial: u32,
}

/// Measures whether the phone's samples come at the line's rate.
#[derive(Debug)]
struct RateCheck {
    since_us: u64,
    /// When it is judged; `None`: it has been.
    due_us: Option<u64>,
    received: u64,
    again: bool,
}

impl RateCheck {
    /// What came in the time that was measured, once that is over: samples a second.
    fn judge(&mut self, received: u64, stalls: u64, claimed_hz: u32, now_us: u64) -> Option<Event> {
        let due_us = self.due_us.filter(|&due_us| now_us >= due_us)?;
        self.due_us = None;
        let measured_hz = (received - self.received) as f64 * 1e6 / (due_us - self.since_us) as f64;
        let apart = |rate_hz: u32| (f64::from(rate_hz) - measured_hz).abs();
        let likely_hz = RATES_HZ
            .into_iter()
            .min_by(|&a, &b| apart(a).total_cmp(&apart(b)))?;
        let close = (measured_hz / f64::from(claimed_hz) - 1.0).abs() <= RATE_TOLERANCE;
        if measured_hz == 0.0 || likely_hz == claimed_hz || close {
            return None;
        }
        if stalls > 0 && !self.again {
            // Audio that is late is no other rate; and a line whose rate is too high looks stalled.
            *self = Self {
                since_us: due_us,
                due_us: Some(due_us + RATE_CHECK_AGAIN_US),
                received,
                again: true,
            };
            return None;
        }
        Some(Event::RateMismatch {
            claimed_hz,
            measured_hz: measured_hz.round() as u32,
            likely_hz,
        })
    }
}

/// One call, both directions.
pub struct Line {
    rate_hz: u32,
    uplink: Uplink,
    downlink: Downlink,
    rate_check: RateCheck,
    engine_open: bool,
    /// Since when the caller waits for the first sound of an agent.
    missed_since_us: Option<u64>,
    /// Samples of engines that had been sent to the phone by then.
    sent_before: u64,
    started: bool,
    holds: u64,
    all_played: bool,
    output: LineOutput,
}

impl Line {
    /// A line on which nothing has happened, without an engine. Its first [`Line::poll`] is due at once.
    ///
    /// # Errors
    /// [`crate::Error::Rate`] unless the line runs at 8000, 16000 or 24000 Hz.
    pub fn new(rate_hz: u32, encoding: Encoding, stream_id: &str, config: LineConfig) -> Result<Self> {
        Ok(Self {
            rate_hz,
            uplink: Uplink::new(rate_hz, encoding, config.intake, config.serial)?,
            downlink: Downlink::new(rate_hz, encoding, stream_id, config.playout)?,
            rate_check: RateCheck {
                since_us: 0,
                due_us: None,
                received: 0,
                again: false,
            },
            engine_open: false,
            missed_since_us: None,
            sent_before: 0,
            started: false,
            holds: 0,
            all_played: false,
            output: LineOutput::default(),
        })
    }

    /// A message from the phone. `None`: it is no media, and nothing has happened.
    pub fn phone_message(&mut self, message: &[u8], _is_text: bool, now_us: u64) -> Option<&LineOutput> {
        self.begin(now_us);
        let received = self.uplink.intake_stats().received;
        self.uplink.receive(message, now_us, &mut self.output.to_engine)?;
        let stalls = self.uplink.intake_stats().stalls;
        let mismatch = self.rate_check.judge(received, stalls, self.rate_hz, now_us);
        self.output.events.extend(mismatch);
        Some(self.end(now_us))
    }

    /// Bytes of the engine's stream, in any split.
    pub fn engine_audio(&mut self, ogg: &[u8], now_us: u64) -> &LineOutput {
        self.begin(now_us);
        let caller = self.uplink.caller();
        let heard = self
            .downlink
            .receive(ogg, now_us, caller, &mut self.output.to_phone);
        if heard > 0 {
            self.uplink.answered(heard, now_us);
        }
        self.output.ping = self.downlink.take_ping(now_us);
        self.end(now_us)
    }

    /// The phone played everything before this mark. A mark that is not ours is ignored.
    pub fn mark_played(&mut self, name: &str, now_us: u64) -> &LineOutput {
        self.begin(now_us);
        self.downlink.marked(name, now_us);
        self.end(now_us)
    }

    /// A ping came back from the phone's end after so long.
    pub fn pong(&mut self, rtt_us: u64, now_us: u64) -> &LineOutput {
        self.begin(now_us);
        self.downlink.round_trip(rtt_us, now_us);
        self.end(now_us)
    }

    /// To be called once when the call starts, and then at or after [`LineOutput::wake_us`].
    pub fn poll(&mut self, now_us: u64) -> &LineOutput {
        self.begin(now_us);
        if self.uplink.wake_us().is_some_and(|wake_us| wake_us <= now_us) {
            self.uplink.poll(now_us, &mut self.output.to_engine);
        }
        if self.downlink.wake_us().is_some_and(|wake_us| wake_us <= now_us) {
            self.downlink.poll(now_us, &mut self.output.to_phone);
            self.output.ping = self.downlink.take_ping(now_us);
        }
        self.end(now_us)
    }

    /// An engine is ready: it gets the header pages and the newest of the caller's audio.
    ///
    /// # Errors
    /// libopus refusing a new encoder.
    pub fn open_engine(&mut self, now_us: u64) -> Result<&LineOutput> {
        self.begin(now_us);
        self.uplink.open(now_us, &mut self.output.to_engine)?;
        self.engine_open = true;
        Ok(self.end(now_us))
    }

    /// The engine is gone, and another may come: what it said last is sent, and the bridge may play its own sound.
    pub fn close_engine(&mut self, now_us: u64) -> &LineOutput {
        self.begin(now_us);
        self.uplink.close(now_us);
        self.downlink.engine_gone(now_us, &mut self.output.to_phone);
        self.engine_open = false;
        self.missed_since_us = Some(now_us);
        self.sent_before = self.downlink.playout_stats().sent;
        self.end(now_us)
    }

    /// Queues the bridge's own sound, at the line's rate. It is played while no engine speaks; an engine that begins to
    /// speak ends it with a fade. While one speaks, and after [`Line::finish`], it is not played at all.
    pub fn play(&mut self, pcm: &[f32], now_us: u64) -> &LineOutput {
        self.begin(now_us);
        self.downlink.play(pcm, now_us, &mut self.output.to_phone);
        self.end(now_us)
    }

    /// Ends the bridge's own sound with a fade.
    pub fn fade_out(&mut self, now_us: u64) -> &LineOutput {
        self.begin(now_us);
        self.downlink.fade_out(now_us, &mut self.output.to_phone);
        self.end(now_us)
    }

    /// Drops everything that the caller has not heard yet.
    pub fn flush(&mut self, now_us: u64) -> &LineOutput {
        self.begin(now_us);
        self.downlink.flush(now_us, &mut self.output.to_phone);
        self.end(now_us)
    }

    /// Nothing more will be said: sends what is left, and a mark behind it. [`Event::AllPlayed`] follows.
    pub fn finish(&mut self, now_us: u64) -> &LineOutput {
        self.begin(now_us);
        self.downlink.finish(now_us, &mut self.output.to_phone);
        self.end(now_us)
    }

    /// When [`Line::poll`] is due if nothing arrives before.
    #[must_use]
    pub fn wake_us(&self) -> Option<u64> {
        self.uplink
            .wake_us()
            .into_iter()
            .chain(self.downlink.wake_us())
            .min()
    }

    /// How long the bridge's own sound will still be heard.
    #[must_use]
    pub fn playing_us(&self, now_us: u64) -> u64 {
        self.downlink.playing_us(now_us)
    }

    /// How long the agent has paused since it last spoke; `None` while it has not spoken.
    #[must_use]
    pub fn paused_us(&self) -> Option<u64> {
        self.downlink.paused_us()
    }

    /// After [`Line::finish`]: whether the caller has heard the last words, or waiting for that is over.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.downlink.is_drained()
    }

    /// How much sound engines were sent, and how much came from them.
    #[must_use]
    pub fn exchanged_us(&self) -> (u64, u64) {
        let us = |samples: u64| samples * 1_000_000 / u64::from(self.rate_hz);
        let (sent, came) = (
            self.uplink.intake_stats().emitted,
            self.downlink.playout_stats().received,
        );
        (us(sent), us(came))
    }

    /// From now on keeps what the caller says and hears, for [`Line::take_said`] and [`Line::take_heard`].
    pub fn keep_audio(&mut self) {
        self.uplink.keep_said();
        self.downlink.keep_heard();
    }

    /// Appends what the caller has said since the last time, in pieces with the time they came less their duration.
    pub fn take_said(&mut self, now_us: u64, pcm: &mut Vec<i16>, pieces: &mut Vec<Piece>) {
        self.uplink.take_said(now_us, pcm, pieces);
    }

    /// Appends what the caller has heard since the last time, in pieces with the time at which they were heard.
    pub fn take_heard(&mut self, now_us: u64, pcm: &mut Vec<i16>, pieces: &mut Vec<Piece>) {
        self.downlink.take_heard(now_us, pcm, pieces);
    }

    /// What the media reader met so far.
    #[must_use]
    pub fn media_stats(&self) -> MediaStats {
        self.uplink.media_stats()
    }

    /// What the intake did so far.
    #[must_use]
    pub fn intake_stats(&self) -> IntakeStats {
        self.uplink.intake_stats()
    }

    /// What the playout did so far.
    #[must_use]
    pub fn playout_stats(&self) -> PlayoutStats {
        self.downlink.playout_stats()
    }

    /// What the reader of the engine's stream met so far.
    #[must_use]
    pub fn stream_stats(&self) -> StreamStats {
        self.downlink.stream_stats()
    }

    /// How long after a frame's last sample was sent to the engine its answer came; `None` before the first one.
    #[must_use]
    pub fn round_trip_us(&self) -> Option<u64> {
        self.downlink.round_trip_us()
    }

    /// When the caller began to hear the engine.
    #[must_use]
    pub fn first_audio_us(&self) -> Option<u64> {
        self.downlink.first_audio_us()
    }

    fn begin(&mut self, now_us: u64) {
        self.output.to_phone.clear();
        self.output.to_engine.clear();
        self.output.events.clear();
        self.output.ping = false;
        if !self.started {
            self.started = true;
            self.missed_since_us = Some(now_us);
            self.rate_check.since_us = now_us;
            self.rate_check.due_us = Some(now_us + RATE_CHECK_US);
        }
    }

    fn end(&mut self, now_us: u64) -> &LineOutput {
        if self.engine_open
            && let Some(since_us) = self.missed_since_us
            && self.downlink.playout_stats().sent > self.sent_before
        {
            self.missed_since_us = None;
            let after_us = now_us.saturating_sub(since_us);
            self.output.events.push(Event::AgentHeard { after_us });
        }
        let holds = self.uplink.intake_stats().holds;
        if holds > std::mem::replace(&mut self.holds, holds) {
            let for_us = self.uplink.unanswered_us(now_us);
            self.output.events.push(Event::EngineSilent { for_us });
        }
        if self.downlink.is_drained() && !std::mem::replace(&mut self.all_played, true) {
            self.output.events.push(Event::AllPlayed);
        }
        self.output.wake_us = self.wake_us();
        &self.output
    }
}
