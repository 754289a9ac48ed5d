//! The sample service `speech`: recognises spoken English words.
//!
//! `POST /recognize` with a WAV file of 16 kHz, mono, 16 bit (`Content-Type: audio/wav`) answers
//! `{"text": …, "audio_ms": …, "took_ms": …}`; an error answers `{"error": …}` with a fitting HTTP status.

use std::io::Cursor;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::http::{self, BodyError};

/// Samples per second that the recogniser's model was trained on.
pub const SAMPLE_RATE_HZ: u32 = 16_000;
/// Longest WAV file that is sent, bytes: about 17 minutes. Guess, above any spoken order.
pub const MAX_WAV_BYTES: usize = 32 * 1024 * 1024;
/// Longest answer that is read, bytes. A minute of speech gives about 1 KiB of words.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// Least patience with one request. Without KVM a guest recognises at about the speed of speech.
const BASE_LIMIT: Duration = Duration::from_secs(60);
/// Further patience for each second of audio. Guess: a guest that is ten times slower than speech is of no use.
const LIMIT_PER_AUDIO: u32 = 10;

/// What was recognised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recognition {
    /// The words.
    pub text: String,
    /// Length of the recording, milliseconds.
    pub audio_ms: u64,
    /// Time that the recogniser took, milliseconds by the guest's clock.
    pub took_ms: u64,
}

/// A file that the recogniser cannot read.
#[derive(Debug, thiserror::Error)]
pub enum WavError {
    /// It is no WAV file at all.
    #[error("not a WAV file (it starts with {starts:?})")]
    NotWav {
        /// Its first bytes, as text.
        starts: String,
        /// What the reader said.
        #[source]
        source: hound::Error,
    },
    /// It is a WAV file of another form.
    #[error("{0}; speech takes 16 kHz, mono, 16 bit")]
    Form(String),
    /// It ends before its header says.
    #[error("the recording is cut off: {has} of {says} samples are there")]
    Cut {
        /// Samples that its header promises.
        says: u32,
        /// Samples that are there.
        has: u32,
    },
    /// It has no samples.
    #[error("the recording is empty")]
    Empty,
    /// It is longer than [`MAX_WAV_BYTES`].
    #[error("the recording has {0} bytes, at most {MAX_WAV_BYTES} are sent")]
    TooLong(usize),
}

impl WavError {
    /// How to make a file of the right form.
    pub fn next_step(&self, file: &str) -> Option<String> {
        match self {
            Self::NotWav { .. } | Self::Form(_) => Some(format!(
                "convert it: sox '{file}' -r 16000 -c 1 -b 16 out.wav, or: ffmpeg -i '{file}' -ar 16000 -ac 1 -sample_fmt s16 out.wav"
            )),
            Self::Cut { .. } => Some("copy or record it again".to_owned()),
            Self::Empty => None,
            Self::TooLong(_) => Some("cut it into pieces".to_owned()),
        }
    }
}

/// Why nothing was recognised.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The recording would not be understood. Nothing was sent.
    #[error("cannot use the recording")]
    Wav(#[source] WavError),
    /// The service did not answer, or no longer.
    #[error("the speech service at {address} does not answer")]
    Unreachable {
        /// Where.
        address: SocketAddr,
        /// What the connection said.
        #[source]
        source: reqwest::Error,
    },
    /// The service could not recognise the recording.
    #[error("the speech service refused the recording (HTTP status {status}): {reason}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its reason.
        reason: String,
    },
    /// Something else than the speech service answered.
    #[error("{address} does not answer as the speech service does: {what}")]
    Protocol {
        /// Where.
        address: SocketAddr,
        /// What is wrong with the answer.
        what: String,
    },
}

#[derive(Deserialize)]
struct Failure {
    error: String,
}

/// Checks that a file is what the recogniser takes; says how long the recording is.
pub fn check(wav: &[u8]) -> Result<Duration, WavError> {
    if wav.len() > MAX_WAV_BYTES {
        return Err(WavError::TooLong(wav.len()));
    }
    let mut reader = hound::WavReader::new(Cursor::new(wav)).map_err(|source| WavError::NotWav {
        starts: String::from_utf8_lossy(&wav[..wav.len().min(12)]).into_owned(),
        source,
    })?;
    let spec = reader.spec();
    let right = spec.sample_rate == SAMPLE_RATE_HZ
        && spec.channels == 1
        && spec.bits_per_sample == 16
        && spec.sample_format == hound::SampleFormat::Int;
    if !right {
        return Err(WavError::Form(describe(spec)));
    }
    let says = reader.len();
    let has = u32::try_from(reader.samples::<i16>().take_while(Result::is_ok).count()).unwrap_or(u32::MAX);
    match (says, has) {
        (0, _) => Err(WavError::Empty),
        _ if has < says => Err(WavError::Cut { says, has }),
        _ => Ok(Duration::from_secs(says.into()) / SAMPLE_RATE_HZ),
    }
}

fn describe(spec: hound::WavSpec) -> String {
    let channels = match spec.channels {
        1 => "mono".to_owned(),
        2 => "stereo".to_owned(),
        more => format!("{more} channels"),
    };
    let float = if spec.sample_format == hound::SampleFormat::Float { " floating point" } else { "" };
    let rate_khz = f64::from(spec.sample_rate) / 1000.0;
    format!("the recording is {rate_khz} kHz, {channels}, {} bit{float}", spec.bits_per_sample)
}

/// Recognises a recording with the service at `address`. The recording is checked before anything is sent.
pub async fn recognize(address: SocketAddr, wav: Vec<u8>) -> Result<Recognition, Error> {
    let length = check(&wav).map_err(Error::Wav)?;
    let unreachable = |source: reqwest::Error| Error::Unreachable { address, source: source.without_url() };
    let protocol = |what: String| Error::Protocol { address, what };
    let (client, base) =
        http::endpoint(&crate::Access::Insecure, address).map_err(|error| protocol(error.to_string()))?;
    let request = client
        .post(format!("{base}/recognize"))
        .header("content-type", "audio/wav")
        .timeout(BASE_LIMIT + length * LIMIT_PER_AUDIO)
        .body(wav);
    let response = request.send().await.map_err(unreachable)?;
    let status = response.status();
    let body = http::body(response, MAX_ANSWER_BYTES).await.map_err(|error| match error {
        BodyError::Cut(source) => unreachable(source),
        BodyError::TooLong(cap) => protocol(format!("an answer of more than {cap} bytes")),
    })?;
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|error| protocol(error.to_string()));
    }
    match serde_json::from_slice::<Failure>(&body) {
        Ok(Failure { error }) => Err(Error::Refused { status: status.as_u16(), reason: error }),
        Err(_) => Err(protocol(format!("HTTP status {status} without a known reason"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wav(rate: u32, channels: u16, bits: u16, samples: u32) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        let spec = hound::WavSpec {
            channels,
            sample_rate: rate,
            bits_per_sample: bits,
            sample_format: hound::SampleFormat::Int,
        };
        let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
        for n in 0..samples * u32::from(channels) {
            writer.write_sample(i8::try_from(n % 100).unwrap()).unwrap();
        }
        writer.finalize().unwrap();
        bytes.into_inner()
    }

    #[test]
    fn the_right_form_passes_and_says_its_length() {
        assert_eq!(check(&wav(16_000, 1, 16, 8_000)).unwrap(), Duration::from_millis(500));
    }

    #[test]
    fn other_forms_are_named_with_what_they_are() {
        for (bytes, what) in [
            (wav(44_100, 2, 16, 10), "44.1 kHz, stereo, 16 bit"),
            (wav(16_000, 1, 8, 10), "16 kHz, mono, 8 bit"),
            (wav(8_000, 1, 16, 10), "8 kHz, mono, 16 bit"),
        ] {
            let error = check(&bytes).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
            assert!(error.next_step("a b.mp3").unwrap().contains("sox 'a b.mp3' -r 16000"));
        }
    }

    #[test]
    fn what_is_no_wav_is_cut_or_empty_is_told_apart() {
        let error = check(b"ID3\x04 an mp3 file").unwrap_err();
        assert!(error.to_string().contains("not a WAV file (it starts with \"ID3"), "{error}");
        assert!(matches!(check(b""), Err(WavError::NotWav { .. })));
        assert!(matches!(check(&wav(16_000, 1, 16, 0)), Err(WavError::Empty)));
        let whole = wav(16_000, 1, 16, 100);
        for end in 0..whole.len() {
            assert!(check(&whole[..end]).is_err(), "cut at {end}");
        }
        let cut = check(&whole[..whole.len() - 20]).unwrap_err();
        assert!(matches!(cut, WavError::Cut { says: 100, has: 90 }), "{cut}");
    }
}
