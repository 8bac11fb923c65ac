//! A whole call, both directions: messages and the time go in, and everything that follows from them comes out.
//!
//! The one idea: each input returns one [`LineOutput`], which holds everything that follows from it. So the owner of
//! the sockets makes one call per message, and remembers nothing between two messages.
//!
//! A media payload, hop by hop: [`Line::phone_message`] gives it to the carrier's [`MediaReader`], the samples to
//! [`Intake`], and what that passes on to the [`EngineCodec`]. [`Line::engine_audio`] gives the engine's bytes to the
//! same codec, the samples to [`Playout`](crate::downlink::playout::Playout), and what that passes on to the
//! carrier's [`MediaWriter`](crate::carrier::MediaWriter).

mod answer_time;
mod downlink;
mod rate_check;

use crate::carrier::payload::OddByte;
use crate::carrier::{Carrier, MediaReader, Message, Messages};
use crate::codec::engine::EngineCodec;
use crate::codec::stream::StreamStats;
use crate::downlink::playout::{PlayoutConfig, PlayoutStats};
use crate::error::Result;
use crate::rate::LineRate;
use crate::tap::{Piece, Tap};
use crate::uplink::intake::{Intake, IntakeConfig, IntakeStats};
use answer_time::AnswerTime;
use downlink::Downlink;
use rate_check::RateCheck;

/// Something that happened on a line, beside the sound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// The first sound of an agent is on its way to the caller.
    AgentHeard {
        /// The time until the caller hears it, as estimated: since the line's first input, or since the agent that was
        /// heard last was gone.
        after_us: u64,
    },
    /// After [`Line::finish`]: the caller has heard the last words, or waiting for that is over.
    AllPlayed,
    /// The engine does not answer, so from now on audio is held back from it.
    EngineSilent {
        /// How long its answer has been due.
        for_us: u64,
    },
    /// The phone sends 16-bit payloads of an odd length. This event comes once, when it is known how to read them.
    OddPayloads {
        /// The last byte of such a payload.
        odd_byte: OddByte,
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

/// Everything that follows from one input of a [`Line`].
#[derive(Debug, Default)]
pub struct LineOutput {
    /// Messages for the phone's socket, in their order.
    pub to_phone: Messages,
    /// Bytes for the engine's socket; may be empty.
    pub to_engine: Vec<u8>,
    /// Whether the phone's socket shall be pinged now; see [`Line::pong`].
    pub ping: bool,
    /// When [`Line::poll`] is due if nothing arrives before; `None` for never.
    pub wake_us: Option<u64>,
    /// Events, in their order.
    pub events: Vec<Event>,
}

/// Counters of the media reader, in messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MediaStats {
    /// Media messages.
    pub messages: u64,
    /// Media messages of which a part could not be read.
    pub malformed: u64,
    /// Media messages of a track that is not the caller's.
    pub other_track: u64,
}

/// Whether the caller waits for an agent's first sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FirstSound {
    /// The line has had no input.
    New,
    /// The caller waits since then.
    Missed {
        since_us: u64,
    },
    Heard,
}

/// One call, both directions. Its buffers are used again: after the first messages it allocates nothing.
///
/// Times are `now_us`, microseconds on any monotonic clock. They never go back.
#[derive(Debug)]
pub struct Line {
    rate: LineRate,
    reader: Box<dyn MediaReader>,
    codec: Box<dyn EngineCodec>,
    intake: Intake,
    downlink: Downlink,
    media: MediaStats,
    answer_time: AnswerTime,
    rate_check: RateCheck,
    engine_is_open: bool,
    first_sound: FirstSound,
    /// The intake's counter of holds, as of the last input.
    holds: u64,
    drained_told: bool,
    /// Samples in which the caller spoke, and the agent.
    spoken: (u64, u64),
    /// The caller's audio, for a recording.
    said: Option<Tap>,
    phone_pcm: Vec<f32>,
    engine_pcm: Vec<f32>,
    output: LineOutput,
}

impl Line {
    /// A line on which nothing has happened, without an engine. Its first [`Line::poll`] is due at once.
    #[must_use]
    pub fn new(
        rate: LineRate,
        carrier: Carrier,
        codec: Box<dyn EngineCodec>,
        intake: IntakeConfig,
        playout: PlayoutConfig,
    ) -> Self {
        Self {
            rate,
            reader: carrier.reader,
            codec,
            intake: Intake::new(rate, intake),
            downlink: Downlink::new(rate, carrier.writer, playout),
            media: MediaStats::default(),
            answer_time: AnswerTime::new(rate),
            rate_check: RateCheck::New,
            engine_is_open: false,
            first_sound: FirstSound::New,
            holds: 0,
            drained_told: false,
            spoken: (0, 0),
            said: None,
            phone_pcm: Vec::new(),
            engine_pcm: Vec::new(),
            output: LineOutput::default(),
        }
    }

    /// A message from the phone. `None`: it is neither media nor a mark that came back, and nothing has changed.
    pub fn phone_message(&mut self, message: Message<'_>, now_us: u64) -> Option<&LineOutput> {
        self.phone_pcm.clear();
        let Some(frame) = self.reader.read(message, &mut self.phone_pcm) else {
            let name = self.reader.returned_mark(message)?;
            return Some(self.mark_played(name, now_us));
        };
        self.begin(now_us);
        self.media.messages += 1;
        self.media.malformed += u64::from(frame.malformed);
        self.media.other_track += u64::from(frame.other_track);
        let odd = frame.odd_byte.map(|odd_byte| Event::OddPayloads { odd_byte });
        self.output.events.extend(odd);
        if let Some(tap) = &mut self.said {
            // Its last sample was said just now, at the latest.
            let duration_us = self.rate.us_until_over(self.phone_pcm.len());
            tap.push(&self.phone_pcm, now_us.saturating_sub(duration_us));
        }
        let (received, stalls) = (self.intake.received_samples(), self.intake.stalls());
        let mismatch = self.rate_check.observe(received, stalls, self.rate, now_us);
        self.output.events.extend(mismatch);
        self.intake.push(&self.phone_pcm, now_us, &mut self.engine_pcm);
        if self.intake.voice_level() > 0.0 {
            self.spoken.0 += self.phone_pcm.len() as u64;
        }
        Some(self.end(now_us))
    }

    /// Bytes of the engine's stream, in any split.
    pub fn engine_audio(&mut self, bytes: &[u8], now_us: u64) -> &LineOutput {
        self.begin(now_us);
        let to_phone = &mut self.output.to_phone;
        let came = self
            .downlink
            .receive(bytes, &self.intake, self.codec.as_mut(), now_us, to_phone);
        if came > 0 {
            self.answer_time.answered(came, now_us);
            if self.downlink.paused_us() == Some(0) {
                self.spoken.1 += came as u64;
            }
            self.intake.answered(came, now_us);
        }
        self.output.ping = self.downlink.ping_due(now_us);
        self.end(now_us)
    }

    /// The phone has played everything before this mark. One that is not ours is ignored.
    pub fn mark_played(&mut self, name: &str, now_us: u64) -> &LineOutput {
        self.begin(now_us);
        let return_jitter_us = self.intake.return_jitter_us();
        self.downlink.mark_played(name, return_jitter_us, now_us);
        self.end(now_us)
    }

    /// A ping came back from the phone's end after `rtt_us`.
    pub fn pong(&mut self, rtt_us: u64, now_us: u64) -> &LineOutput {
        self.begin(now_us);
        let return_jitter_us = self.intake.return_jitter_us();
        self.downlink.pong(rtt_us, return_jitter_us, now_us);
        self.end(now_us)
    }

    /// To be called once when the call starts, and then at or after [`LineOutput::wake_us`].
    pub fn poll(&mut self, now_us: u64) -> &LineOutput {
        self.begin(now_us);
        self.intake.poll(now_us, &mut self.engine_pcm);
        self.downlink
            .poll(self.codec.as_mut(), now_us, &mut self.output.to_phone);
        self.output.ping = self.downlink.ping_due(now_us);
        self.end(now_us)
    }

    /// An engine is ready: it gets the headers of its stream, and the newest of the caller's audio.
    ///
    /// # Errors
    /// libopus refusing a new encoder.
    pub fn open_engine(&mut self, now_us: u64) -> Result<&LineOutput> {
        self.begin(now_us);
        self.codec.open(&mut self.output.to_engine)?;
        self.answer_time.begin();
        self.intake.open(now_us, &mut self.engine_pcm);
        self.engine_is_open = true;
        Ok(self.end(now_us))
    }

    /// The engine is gone: the rest of its audio is sent. The bridge's own sound and another engine may follow.
    pub fn close_engine(&mut self, now_us: u64) -> &LineOutput {
        self.begin(now_us);
        self.intake.close();
        self.downlink
            .close_engine(self.codec.as_mut(), now_us, &mut self.output.to_phone);
        self.engine_is_open = false;
        self.miss_agent(now_us);
        self.end(now_us)
    }

    /// Queues the bridge's own sound, at the line's rate: greetings, announcements, music. It is played while no
    /// engine speaks, and over the gap that a silent engine leaves. An engine that begins to speak ends it with a
    /// fade. While one speaks, and after [`Line::finish`], it is not played at all.
    pub fn play(&mut self, pcm: &[f32], now_us: u64) -> &LineOutput {
        self.begin(now_us);
        self.downlink
            .play(pcm, self.codec.as_mut(), now_us, &mut self.output.to_phone);
        self.end(now_us)
    }

    /// Ends the bridge's own sound with a fade.
    pub fn fade_out(&mut self, now_us: u64) -> &LineOutput {
        self.begin(now_us);
        self.downlink.fade_out(now_us, &mut self.output.to_phone);
        self.end(now_us)
    }

    /// Drops everything that the caller has not heard.
    pub fn flush(&mut self, now_us: u64) -> &LineOutput {
        self.begin(now_us);
        self.downlink.flush(now_us, &mut self.output.to_phone);
        self.end(now_us)
    }

    /// Nothing more will be said: sends the rest, and a mark behind it. [`Event::AllPlayed`] follows, now or later.
    pub fn finish(&mut self, now_us: u64) -> &LineOutput {
        self.begin(now_us);
        self.downlink
            .finish(self.codec.as_mut(), now_us, &mut self.output.to_phone);
        self.end(now_us)
    }

    /// When [`Line::poll`] is due if nothing arrives before; `None` for never.
    #[must_use]
    pub fn wake_us(&self) -> Option<u64> {
        let intake_us = self.intake.wake_us();
        intake_us.into_iter().chain(self.downlink.wake_us()).min()
    }

    /// The time for which the bridge's own sound will still be heard.
    #[must_use]
    pub fn playing_us(&self, now_us: u64) -> u64 {
        self.downlink.playing_us(now_us)
    }

    /// The duration of the agent's pause so far; `None` while it has not spoken.
    #[must_use]
    pub fn paused_us(&self) -> Option<u64> {
        self.downlink.paused_us()
    }

    /// After [`Line::finish`]: whether the caller has heard the last words, or waiting for that is over.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.downlink.is_drained()
    }

    /// The duration of the audio that engines were sent, and of the audio that they sent.
    #[must_use]
    pub fn exchanged_us(&self) -> (u64, u64) {
        let us = |samples: u64| self.rate.us(samples as usize) as u64;
        (
            us(self.intake.emitted_samples()),
            us(self.downlink.received_samples()),
        )
    }

    /// How long the caller has spoken, and the agent. A pause inside a word counts as speech, a pause after it does
    /// not.
    #[must_use]
    pub fn spoken_us(&self) -> (u64, u64) {
        let us = |samples: u64| self.rate.us(samples as usize) as u64;
        (us(self.spoken.0), us(self.spoken.1))
    }

    /// From now on keeps what the caller says and hears, for [`Line::take_said`] and [`Line::take_heard`].
    pub fn keep_audio(&mut self) {
        self.said.get_or_insert_with(|| Tap::new(self.rate));
        self.downlink.keep_heard();
    }

    /// Appends the caller's audio since the last time, in pieces. Their time is when they came, less their duration:
    /// the network's delay is not taken off.
    pub fn take_said(&mut self, now_us: u64, pcm: &mut Vec<i16>, pieces: &mut Vec<Piece>) {
        if let Some(tap) = &mut self.said {
            tap.take(now_us, pcm, pieces);
        }
    }

    /// Appends the audio that the caller has heard since the last time, in pieces with the time at which they were
    /// heard, as [`PhonePath`](crate::phone_path) estimates it. Audio that a clear took back is not in it.
    pub fn take_heard(&mut self, now_us: u64, pcm: &mut Vec<i16>, pieces: &mut Vec<Piece>) {
        if let Some(tap) = self.downlink.tap() {
            tap.take(now_us, pcm, pieces);
        }
    }

    /// The media reader's counters so far.
    #[must_use]
    pub fn media_stats(&self) -> MediaStats {
        self.media
    }

    /// The intake's counters so far.
    #[must_use]
    pub fn intake_stats(&self) -> IntakeStats {
        self.intake.stats()
    }

    /// The playout's counters so far.
    #[must_use]
    pub fn playout_stats(&self) -> PlayoutStats {
        self.downlink.stats()
    }

    /// The counters so far of the reader of the engine's stream.
    #[must_use]
    pub fn stream_stats(&self) -> StreamStats {
        self.codec.stats()
    }

    /// The engine's answer time: from a frame's last sample to its answer. `None` before the first answer.
    #[must_use]
    pub fn answer_us(&self) -> Option<u64> {
        self.answer_time.us()
    }

    /// When the caller began to hear anything, the bridge's own sound or an engine, as estimated. Silence sent to a
    /// caller who waits does not count.
    #[must_use]
    pub fn first_sound_us(&self) -> Option<u64> {
        self.downlink.first_sound_us()
    }

    /// When the caller began to hear an engine, as estimated.
    #[must_use]
    pub fn first_audio_us(&self) -> Option<u64> {
        self.downlink.first_audio_us()
    }

    fn begin(&mut self, now_us: u64) {
        self.output.to_phone.clear();
        self.output.to_engine.clear();
        self.output.events.clear();
        self.output.ping = false;
        self.engine_pcm.clear();
        if let RateCheck::New = self.rate_check {
            self.rate_check.start(now_us);
            self.miss_agent(now_us);
        }
    }

    fn end(&mut self, now_us: u64) -> &LineOutput {
        if !self.engine_pcm.is_empty() {
            self.answer_time.fed(self.engine_pcm.len(), now_us);
            self.codec.encode(&self.engine_pcm, &mut self.output.to_engine);
        }
        self.note_events(now_us);
        self.output.wake_us = self.wake_us();
        &self.output
    }

    fn note_events(&mut self, now_us: u64) {
        if let FirstSound::Missed { since_us } = self.first_sound
            && self.engine_is_open
            && let Some(heard_from_us) = self.downlink.agent_from_us()
        {
            self.first_sound = FirstSound::Heard;
            let after_us = heard_from_us.saturating_sub(since_us);
            self.output.events.push(Event::AgentHeard { after_us });
        }
        let holds = self.intake.holds();
        if holds > std::mem::replace(&mut self.holds, holds) {
            let for_us = self.intake.unanswered_us(now_us);
            self.output.events.push(Event::EngineSilent { for_us });
        }
        if self.is_drained() && !std::mem::replace(&mut self.drained_told, true) {
            self.output.events.push(Event::AllPlayed);
        }
    }

    /// From now on the caller waits for the first sound of an agent, or goes on to wait for it.
    fn miss_agent(&mut self, now_us: u64) {
        self.downlink.expect_agent();
        if !matches!(self.first_sound, FirstSound::Missed { .. }) {
            self.first_sound = FirstSound::Missed { since_us: now_us };
        }
    }
}
