//! Uplink and Downlink: everything between the two wires, one call per message.
//!
//! A message from one socket goes in together with the time, and what the other socket shall send comes out.
//! The stages are those of the other modules; what is added here is only their order and the two small
//! lives around them: an uplink outlives its engines, a downlink begins before one speaks, plays what the bridge itself
//! has to say while none does, and ends after the last word was heard.

use crate::carrier::exotel::{ExotelReader, ExotelWriter};
use crate::carrier::payload::Encoding;
use crate::carrier::{MediaReader as _, MediaWriter as _, Message, Messages};
use crate::codec::opus::{EncoderConfig, TOWARDS_ENGINE};
use crate::codec::stream::{OggOpusReader, OggOpusWriter, StreamStats};
use crate::downlink::announcement::Announcement;
use crate::downlink::playout::{Mark, PACKET_MS, Playout, PlayoutConfig, PlayoutStats, Step};
use crate::error::Result;
use crate::line::MediaStats;
use crate::rate::LineRate;
use crate::tap::{Piece, Tap};
use crate::uplink::intake::{FRAME_MS, Intake, IntakeConfig, IntakeStats};

/// The engine's rate: PersonaPlex and moshi speak 24 kHz.
pub const ENGINE_HZ: u32 = 24_000;

/// How many of the model's frames are remembered until they are answered: 2.5 s of them.
const FED_KEPT: usize = 32;

/// When the engine was given each of its newest frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fed {
    /// Which of the call's engines this is about.
    engine: u32,
    samples: u64,
    frame_samples: u64,
    /// When frame `n` was complete, at `n % FED_KEPT`.
    complete_us: [u64; FED_KEPT],
}

impl Fed {
    fn begin(&mut self, frame_samples: u64) {
        *self = Self {
            engine: self.engine.wrapping_add(1),
            frame_samples,
            ..Self::default()
        };
    }

    fn add(&mut self, samples: usize, now_us: u64) {
        if self.frame_samples == 0 {
            return;
        }
        let before = self.samples / self.frame_samples;
        self.samples += samples as u64;
        for frame in before..self.samples / self.frame_samples {
            self.complete_us[frame as usize % FED_KEPT] = now_us;
        }
    }

    /// How long ago the last of so many frames was complete; `None` if it is not, or if that was too long ago.
    fn age_us(&self, frames: u64, now_us: u64) -> Option<u64> {
        let complete = self.samples.checked_div(self.frame_samples)?;
        let last = frames.checked_sub(1)?;
        if last >= complete || last + (FED_KEPT as u64) < complete {
            return None;
        }
        Some(now_us.saturating_sub(self.complete_us[last as usize % FED_KEPT]))
    }
}

/// What the playout has to know of the caller.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Caller {
    /// How loud the caller speaks, RMS, 0 while not: an agent that falls silent then was interrupted.
    pub voice_level: f32,
    /// How much later than its first the engine's frames will come, as the phone's chunks and the engine's frames
    /// beat against each other; see [`Intake::beat_us`].
    pub beat_us: i64,
    /// When the engine got what it answers.
    pub fed: Fed,
    /// How much of the caller's time it was not given; see [`Intake::not_given_us`].
    pub not_given_us: i64,
    /// By how much the phone's way to us varies; see [`Intake::return_jitter_us`].
    pub return_jitter_us: u64,
}

/// Phone to engine: media messages in, Ogg Opus out.
pub struct Uplink {
    reader: ExotelReader,
    rate: LineRate,
    encoder: EncoderConfig,
    serial: u32,
    intake: Intake,
    stream: OggOpusWriter,
    media: MediaStats,
    fed: Fed,
    /// The caller, for a recording.
    tap: Option<Tap>,
    phone: Vec<f32>,
    paced: Vec<f32>,
}

impl Uplink {
    /// An uplink whose engine is not there yet.
    ///
    /// `serial` identifies the first Ogg stream; each engine that is opened gets a stream of its own.
    ///
    /// # Errors
    /// [`crate::Error::Rate`] unless the line runs at 8000, 16000 or 24000 Hz.
    pub fn new(rate_hz: u32, encoding: Encoding, config: IntakeConfig, serial: u32) -> Result<Self> {
        // At the line's own rate, so that nothing has to be resampled: see TOWARDS_ENGINE for what that gains.
        let encoder = EncoderConfig {
            rate_hz,
            ..TOWARDS_ENGINE
        };
        Ok(Self {
            reader: ExotelReader::new(encoding),
            rate: LineRate::new(rate_hz)?,
            encoder,
            serial,
            intake: Intake::new(rate_hz, config)?,
            stream: OggOpusWriter::new(encoder, serial)?,
            media: MediaStats::default(),
            fed: Fed::default(),
            tap: None,
            phone: Vec::new(),
            paced: Vec::new(),
        })
    }

    /// A message from the phone. Media: appends what the engine shall get for it and returns how many
    /// samples of the line it held. Anything else: `None`, and nothing has happened.
    pub fn receive(&mut self, message: &[u8], now_us: u64, ogg: &mut Vec<u8>) -> Option<usize> {
        self.phone.clear();
        let frame = self.reader.read(Message::text(message), &mut self.phone)?;
        self.media.messages += 1;
        self.media.malformed += u64::from(frame.malformed);
        if let Some(tap) = &mut self.tap {
            // Its last sample was said just now, at the latest.
            let duration_us = self.rate.us_until_over(self.phone.len());
            tap.push(&self.phone, now_us.saturating_sub(duration_us));
        }
        self.paced.clear();
        self.intake.push(&self.phone, now_us, &mut self.paced);
        self.encode(now_us, ogg);
        Some(frame.samples)
    }

    /// The engine is ready: appends the stream's header pages and the newest of the caller's audio.
    ///
    /// # Errors
    /// libopus refusing a new encoder.
    pub fn open(&mut self, now_us: u64, ogg: &mut Vec<u8>) -> Result<()> {
        self.stream = OggOpusWriter::new(self.encoder, self.serial)?;
        self.serial = self.serial.wrapping_add(1);
        self.stream.headers(ogg);
        self.paced.clear();
        self.intake.open(now_us, &mut self.paced);
        self.fed.begin(u64::from(self.encoder.rate_hz / 1000 * FRAME_MS));
        self.encode(now_us, ogg);
        Ok(())
    }

    /// The engine is gone; the next [`Uplink::open`] begins a new stream.
    pub fn close(&mut self, now_us: u64) {
        self.intake.close(now_us);
    }

    /// The engine said so many samples (see [`Downlink::receive`]): one that says nothing is not fed for ever, and one
    /// that is behind is given less.
    pub fn answered(&mut self, samples: usize, now_us: u64) {
        self.intake.answered(samples, now_us);
    }

    /// How long the engine has owed an answer; 0 if it owes none.
    #[must_use]
    pub fn unanswered_us(&self, now_us: u64) -> u64 {
        self.intake.unanswered_us(now_us)
    }

    /// To be called at or after [`Uplink::wake_us`].
    pub fn poll(&mut self, now_us: u64, ogg: &mut Vec<u8>) {
        self.paced.clear();
        self.intake.poll(now_us, &mut self.paced);
        self.encode(now_us, ogg);
    }

    /// When [`Uplink::poll`] is due if nothing arrives before.
    #[must_use]
    pub fn wake_us(&self) -> Option<u64> {
        self.intake.wake_us()
    }

    /// What the other direction has to know of the caller.
    #[must_use]
    pub fn caller(&self) -> Caller {
        Caller {
            voice_level: self.intake.voice_level(),
            beat_us: self.intake.beat_us(),
            fed: self.fed,
            not_given_us: self.intake.not_given_us(),
            return_jitter_us: self.intake.return_jitter_us(),
        }
    }

    /// What the intake did so far.
    #[must_use]
    pub fn intake_stats(&self) -> IntakeStats {
        self.intake.stats()
    }

    /// What the media parser met so far.
    #[must_use]
    pub fn media_stats(&self) -> MediaStats {
        self.media
    }

    /// From now on keeps what the caller says, for [`Uplink::take_said`].
    pub fn keep_said(&mut self) {
        self.tap.get_or_insert_with(|| Tap::new(self.rate));
    }

    /// Appends what the caller has said since the last time, in pieces with the time they came less their
    /// duration. A piece that came late is later than it was said, by as much.
    pub fn take_said(&mut self, now_us: u64, pcm: &mut Vec<i16>, pieces: &mut Vec<Piece>) {
        if let Some(tap) = &mut self.tap {
            tap.take(now_us, pcm, pieces);
        }
    }

    fn encode(&mut self, now_us: u64, ogg: &mut Vec<u8>) {
        self.fed.add(self.paced.len(), now_us);
        self.stream.write(&self.paced, ogg);
    }
}

/// Silence is sent to a caller who waits for the engine in pieces of this length: short, so that the
/// agent's first words do not queue behind it.
const WAITING_SILENCE_MS: u32 = PACKET_MS;

/// How often: some readings of Exotel's rules end a stream that gets no audio within 2 s.
const WAITING_EVERY_US: u64 = 1_000_000;

/// The bridge's own sound is sent in payloads of this many packets: as long as one of the engine's frames.
const OWN_PACKETS: usize = 4;

/// The next one goes out when Exotel holds less than this: a network's usual hiccup is not heard, and an agent that
/// begins to speak waits for 140 ms at most.
const OWN_REFILL_US: u64 = 60_000;

/// Name of the mark behind the last words; all others are made of two numbers.
const LAST_MARK: &str = "last";

/// How long after the last words should have been played a missing mark is no longer waited for.
const LAST_MARK_GRACE_US: u64 = 500_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// No engine speaks: the bridge's own sound if there is any, else silence now and then.
    Waiting { next_us: u64 },
    /// The engine's audio goes to the phone.
    Live,
    /// The conversation is over; what is queued of the engine's is being sent.
    Finishing,
    /// The call is over; what is queued of the bridge's own sound is being sent.
    Parting,
    /// All is sent, with the last mark behind it; given up at `give_up_us`.
    LastSent { give_up_us: u64 },
    /// The caller has heard the last words.
    Drained,
}

/// Engine to phone: Ogg Opus in, messages for the phone's socket out.
pub struct Downlink {
    rate_hz: u32,
    rate: LineRate,
    stream: OggOpusReader,
    playout: Playout,
    writer: ExotelWriter,
    life: Life,
    /// Which of the call's engines is speaking, and how much it has said, in the line's samples.
    answered: (u32, u64),
    round_trip_us: Option<u64>,
    return_jitter_us: u64,
    own: Announcement,
    first_audio_us: Option<u64>,
    /// The agent, for a recording.
    tap: Option<Tap>,
    /// A ping that became due when it was looked, and that nobody has taken yet.
    ping: bool,
    line: Vec<f32>,
    paced: Vec<f32>,
}

impl Downlink {
    /// A downlink that has sent nothing.
    ///
    /// What the engine says is decoded at the line's own rate, so that nothing has to be resampled. For 8 kHz, against
    /// decoding at 24 kHz and our resampler, with the engine's encoder (Voip, 24.75 kbit/s VBR): cost 81 µs per 80 ms
    /// instead of 115; delay 3.4 ms less; below 3.4 kHz 50 dB (segmental SNR) from an ideal low-pass instead of 63,
    /// both far below what the encoder leaves; flat to 3.7 kHz, where the resampler has lost 3.8 dB; of a tone from
    /// 4.05 to 5.5 kHz at most -53 dB come below 3.4 kHz, instead of -49. (Between 3.7 and 4 kHz a tone of 4.3 kHz
    /// leaves -29 dB instead of -52: a telephone ends below.)
    ///
    /// # Errors
    /// [`crate::Error::Rate`] unless the line runs at 8000, 16000 or 24000 Hz.
    pub fn new(rate_hz: u32, encoding: Encoding, stream_sid: &str, config: PlayoutConfig) -> Result<Self> {
        Ok(Self {
            rate_hz,
            rate: LineRate::new(rate_hz)?,
            stream: OggOpusReader::new(rate_hz)?,
            playout: Playout::new(rate_hz, config)?,
            writer: ExotelWriter::new(stream_sid, LineRate::new(rate_hz)?, encoding),
            life: Life::Waiting { next_us: 0 },
            answered: (0, 0),
            round_trip_us: None,
            return_jitter_us: 0,
            own: Announcement::new(rate_hz),
            first_audio_us: None,
            tap: None,
            ping: false,
            line: Vec::new(),
            paced: Vec::new(),
        })
    }

    /// Ogg Opus bytes from the engine: appends the messages that are due, one item each. Returns how many samples
    /// of audio were in them, which [`Uplink::answered`] has to be told.
    pub fn receive(&mut self, ogg: &[u8], now_us: u64, caller: Caller, messages: &mut Vec<Vec<u8>>) -> usize {
        self.line.clear();
        self.stream.read(ogg, &mut self.line);
        let heard = self.line.len();
        if heard == 0 {
            return 0;
        }
        self.time_answer(caller.fed, now_us);
        if let Life::Waiting { .. } = self.life {
            self.fade_out(now_us, messages);
            self.life = Life::Live;
            self.playout.expect_beat(caller.beat_us);
        }
        self.playout.skip_to(caller.not_given_us);
        self.return_jitter_us = caller.return_jitter_us;
        self.paced.clear();
        let step = self
            .playout
            .push(&self.line, now_us, caller.voice_level, &mut self.paced);
        if !self.own.is_empty() {
            // It covered a hole: it fades under the agent's first word.
            self.line.clear();
            self.own.cut(&mut self.line);
            let faded = self.paced.iter_mut().zip(&self.line);
            faded.for_each(|(agent, own)| *agent += own);
        }
        self.send(step, now_us, messages);
        heard
    }

    /// To be called once at the start of the call and then at or after [`Downlink::wake_us`].
    pub fn poll(&mut self, now_us: u64, messages: &mut Vec<Vec<u8>>) {
        if self.ping_wake_us().is_some_and(|wake_us| wake_us <= now_us) {
            self.note_ping(now_us);
        }
        match self.life {
            Life::Waiting { next_us } => {
                if !self.own.is_empty() {
                    self.send_own(now_us, messages);
                    self.life = Life::Waiting {
                        next_us: now_us + WAITING_EVERY_US,
                    };
                } else if now_us >= next_us {
                    self.life = Life::Waiting {
                        next_us: now_us + WAITING_EVERY_US,
                    };
                    self.paced.clear();
                    self.paced.resize(self.samples(WAITING_SILENCE_MS), 0.0);
                    self.write_aside(now_us, messages);
                }
            }
            Life::Parting => {
                self.send_own(now_us, messages);
                if self.own.is_empty() {
                    self.write_last_mark(now_us, messages);
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
                let Self {
                    stream,
                    playout,
                    paced,
                    own,
                    ..
                } = self;
                let mut conceal = |samples: usize, out: &mut Vec<f32>| stream.conceal(samples, out);
                let step = playout.poll(now_us, &mut conceal, paced);
                if playout.is_bridging() {
                    own.lay_over(paced);
                }
                self.send(step, now_us, messages);
                if was_bridging && self.playout.is_idle() && self.life == Life::Live {
                    // So long a hole is not bridged any more: as if the engine were gone, until it speaks.
                    self.life = Life::Waiting { next_us: now_us };
                }
            }
        }
    }

    /// When [`Downlink::poll`] is due if nothing arrives before.
    #[must_use]
    pub fn wake_us(&self) -> Option<u64> {
        self.audio_wake_us().into_iter().chain(self.ping_wake_us()).min()
    }

    fn ping_wake_us(&self) -> Option<u64> {
        match self.life {
            Life::Waiting { .. } | Life::Live => self.playout.ping_wake_us(),
            Life::Finishing | Life::Parting | Life::LastSent { .. } | Life::Drained => None,
        }
    }

    /// Whoever polls and takes no ping is not woken for the same one for ever.
    fn note_ping(&mut self, now_us: u64) {
        self.ping |= self.playout.take_ping(now_us);
    }

    fn audio_wake_us(&self) -> Option<u64> {
        match self.life {
            Life::Waiting { .. } | Life::Parting if !self.own.is_empty() => Some(self.own_due_us()),
            Life::Parting => Some(0),
            Life::Waiting { next_us } => Some(next_us),
            Life::LastSent { give_up_us } => Some(give_up_us),
            Life::Drained => None,
            Life::Live | Life::Finishing => self.playout.wake_us(),
        }
    }

    /// Queues the bridge's own sound, at the line's rate: greetings, announcements, music. It is played while no
    /// engine speaks, and over the hole that one leaves which has stopped; an engine that begins to speak cuts it
    /// short. While one speaks, and after [`Downlink::finish`], it is not played at all.
    pub fn play(&mut self, pcm: &[f32], now_us: u64, messages: &mut Vec<Vec<u8>>) {
        if self.life == Life::Live && self.playout.is_idle() {
            self.life = Life::Waiting { next_us: now_us }; // nothing is left of it to be played
        }
        match self.life {
            Life::Waiting { .. } => {
                self.own.push(pcm);
                self.poll(now_us, messages);
            }
            Life::Live if self.playout.is_bridging() => self.own.push(pcm),
            _ => {}
        }
    }

    /// Ends the bridge's own sound with a fade.
    pub fn fade_out(&mut self, now_us: u64, messages: &mut Vec<Vec<u8>>) {
        self.paced.clear();
        self.own.cut(&mut self.paced);
        self.write_aside(now_us, messages);
    }

    /// How long the bridge's own sound will still be heard.
    #[must_use]
    pub fn playing_us(&self, now_us: u64) -> u64 {
        match self.life {
            Life::Live if self.own.is_empty() => 0,
            Life::Waiting { .. } | Life::Parting | Life::Live => {
                let queued_us = self.own.len() as u64 * 1_000_000 / u64::from(self.rate_hz);
                self.playout.drained_at_us().saturating_sub(now_us) + queued_us
            }
            _ => 0,
        }
    }

    /// The engine is gone, and another may come: what it said last is sent, and the bridge may play its own sound.
    pub fn engine_gone(&mut self, now_us: u64, messages: &mut Vec<Vec<u8>>) {
        if self.life == Life::Live {
            self.paced.clear();
            let Self {
                stream,
                playout,
                paced,
                ..
            } = self;
            let mut conceal = |samples: usize, out: &mut Vec<f32>| stream.conceal(samples, out);
            playout.stop(now_us, &mut conceal, paced);
            if !self.paced.is_empty() {
                self.write_media(messages);
            }
            self.life = Life::Waiting {
                next_us: now_us + WAITING_EVERY_US,
            };
        }
    }

    /// How long the agent has paused since it last spoke; `None` while it has not spoken.
    #[must_use]
    pub fn paused_us(&self) -> Option<u64> {
        self.playout.paused_us()
    }

    /// Drops everything that the caller has not heard yet.
    pub fn flush(&mut self, now_us: u64, messages: &mut Vec<Vec<u8>>) {
        self.own.clear();
        if self.playout.flush(now_us) {
            self.write_clear(now_us, messages);
        }
        if self.life == Life::Finishing {
            self.write_last_mark(now_us, messages);
        }
    }

    /// The agent will say no more: appends what is left and, when all is sent, a mark behind it.
    pub fn finish(&mut self, now_us: u64, messages: &mut Vec<Vec<u8>>) {
        match self.life {
            Life::Waiting { .. } if self.playing_us(now_us) == 0 => self.life = Life::Drained,
            Life::Waiting { .. } => {
                self.life = Life::Parting;
                self.poll(now_us, messages);
            }
            Life::Live => {
                self.life = Life::Finishing;
                // A packet more pushes out the last samples that fill none: its last sound, if it breaks off in a word, fading.
                let packet = self.samples(PACKET_MS);
                self.line.clear();
                self.stream.conceal(packet, &mut self.line);
                for (i, sample) in self.line.iter_mut().rev().enumerate() {
                    *sample *= i as f32 / packet as f32;
                }
                self.paced.clear();
                let step = self.playout.push(&self.line, now_us, 0.0, &mut self.paced);
                self.send(step, now_us, messages);
            }
            Life::Finishing | Life::Parting | Life::LastSent { .. } | Life::Drained => {}
        }
    }

    /// Whether the caller has heard the last words (or waiting for that is over).
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.life == Life::Drained
    }

    /// The phone echoed a mark. One that is not ours is ignored.
    pub fn marked(&mut self, name: &str, now_us: u64) {
        if name == LAST_MARK {
            if let Life::LastSent { .. } = self.life {
                self.life = Life::Drained;
            }
        } else if let Some((epoch, number)) = name.split_once('-')
            && let (Ok(epoch), Ok(number)) = (epoch.parse(), number.parse())
        {
            let mark = Mark { epoch, number };
            self.playout.marked(mark, self.return_jitter_us, now_us);
        }
    }

    /// When the caller began to hear the engine, by the model of Exotel's queue.
    #[must_use]
    pub fn first_audio_us(&self) -> Option<u64> {
        self.first_audio_us
    }

    /// From now on keeps what the caller hears, for [`Downlink::take_heard`].
    pub fn keep_heard(&mut self) {
        self.tap.get_or_insert_with(|| Tap::new(self.rate));
    }

    /// Appends what the caller has heard since the last time, in pieces with the time at which they were heard, by
    /// the model of Exotel's queue. What a `clear` took back is not among it.
    pub fn take_heard(&mut self, now_us: u64, pcm: &mut Vec<i16>, pieces: &mut Vec<Piece>) {
        if let Some(tap) = &mut self.tap {
            tap.take(now_us, pcm, pieces);
        }
    }

    /// Whether the phone's socket shall be pinged now; [`Downlink::round_trip`] is to be told how long it took.
    pub fn take_ping(&mut self, now_us: u64) -> bool {
        self.note_ping(now_us);
        std::mem::take(&mut self.ping)
    }

    /// A ping came back from the phone's end after so long.
    pub fn round_trip(&mut self, trip_us: u64, now_us: u64) {
        self.playout.round_trip(trip_us, self.return_jitter_us, now_us);
    }

    /// What the playout did so far.
    #[must_use]
    pub fn playout_stats(&self) -> PlayoutStats {
        self.playout.stats()
    }

    /// How long after a frame's last sample was sent to the engine its answer came; `None` before the first one.
    #[must_use]
    pub fn round_trip_us(&self) -> Option<u64> {
        self.round_trip_us
    }

    /// What the reader of the engine's stream met so far.
    #[must_use]
    pub fn stream_stats(&self) -> StreamStats {
        self.stream.stats()
    }

    /// The engine answers frame by frame: as many as it has sent, so many it must have got before.
    fn time_answer(&mut self, fed: Fed, now_us: u64) {
        if self.answered.0 != fed.engine {
            self.answered = (fed.engine, 0);
        }
        self.answered.1 += self.line.len() as u64;
        let frames = self.answered.1 / u64::from(self.rate_hz / 1000 * FRAME_MS);
        self.round_trip_us = fed.age_us(frames, now_us).or(self.round_trip_us);
    }

    fn send(&mut self, step: Step, now_us: u64, messages: &mut Vec<Vec<u8>>) {
        if step == Step::ClearThenSend {
            self.write_clear(now_us, messages);
        }
        if !self.paced.is_empty() {
            self.first_audio_us.get_or_insert(self.heard_from_us());
            self.write_media(messages);
            self.write_mark(now_us, messages);
        }
        if self.life == Life::Finishing && self.playout.stats().buffered < self.samples(PACKET_MS) as u64 {
            self.write_last_mark(now_us, messages);
        }
    }

    fn own_due_us(&self) -> u64 {
        self.playout.drained_at_us().saturating_sub(OWN_REFILL_US)
    }

    fn send_own(&mut self, now_us: u64, messages: &mut Vec<Vec<u8>>) {
        while !self.own.is_empty() && now_us >= self.own_due_us() {
            self.paced.clear();
            let packets = self.playout.payload_samples() / self.samples(PACKET_MS);
            self.own.take(OWN_PACKETS.max(packets), &mut self.paced);
            self.write_aside(now_us, messages);
        }
    }

    /// Sends what is no engine's, with silence behind it where the account wants larger payloads.
    fn write_aside(&mut self, now_us: u64, messages: &mut Vec<Vec<u8>>) {
        if !self.paced.is_empty() {
            let samples = self.paced.len().max(self.playout.payload_samples());
            self.paced.resize(samples, 0.0);
            self.playout.sent_aside(self.paced.len(), now_us);
            self.write_media(messages);
            self.write_mark(now_us, messages);
        }
    }

    fn write_last_mark(&mut self, now_us: u64, messages: &mut Vec<Vec<u8>>) {
        let mut message = Messages::default();
        self.writer.mark(LAST_MARK, &mut message);
        messages.extend(message.iter().map(|message| message.bytes.to_vec()));
        self.life = Life::LastSent {
            give_up_us: self.playout.drained_at_us().max(now_us) + LAST_MARK_GRACE_US,
        };
    }

    /// When what was just made begins to be heard: it is the last in Exotel's queue.
    fn heard_from_us(&self) -> u64 {
        let duration_us = self.rate.us_until_over(self.paced.len());
        self.playout.drained_at_us().saturating_sub(duration_us)
    }

    fn write_media(&mut self, messages: &mut Vec<Vec<u8>>) {
        let at_us = self.heard_from_us();
        if let Some(tap) = &mut self.tap {
            // A queue that proved shorter than thought does not play two things at once.
            tap.push(&self.paced, at_us.max(tap.end_us()));
        }
        let mut message = Messages::default();
        self.writer.media(&self.paced, &mut message);
        messages.extend(message.iter().map(|message| message.bytes.to_vec()));
    }

    fn write_mark(&mut self, now_us: u64, messages: &mut Vec<Vec<u8>>) {
        if let Some(mark) = self.playout.take_mark(now_us) {
            let mut message = Messages::default();
            self.writer
                .mark(&format!("{}-{}", mark.epoch, mark.number), &mut message);
            messages.extend(message.iter().map(|message| message.bytes.to_vec()));
        }
    }

    fn write_clear(&mut self, now_us: u64, messages: &mut Vec<Vec<u8>>) {
        if let Some(tap) = &mut self.tap {
            tap.cut(now_us);
        }
        let mut message = Messages::default();
        self.writer.clear(&mut message);
        messages.extend(message.iter().map(|message| message.bytes.to_vec()));
    }

    fn samples(&self, ms: u32) -> usize {
        debug_assert_eq!(ms % PACKET_MS, 0);
        (self.rate_hz / 1000 * ms) as usize
    }
}
