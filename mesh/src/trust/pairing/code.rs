//! The short code.

use std::fmt;
use std::str::FromStr;

use super::super::error::Error;
use super::super::random;

/// Digits of a code. Eight: a single guess is right with probability 10⁻⁸, and people still type it without mistakes
/// (a telephone number is as long).
pub const DIGITS: usize = 8;
const CODES: u64 = 100_000_000;

/// A code. It is as secret as what it lets in, so it is not in the debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct Code(String);

impl Code {
    /// A new code from the system's random generator.
    pub fn generate() -> Result<Self, Error> {
        // Multiples of CODES only, or small numbers would be a little more likely.
        const FAIR: u64 = u64::MAX - u64::MAX % CODES;
        loop {
            let number = u64::from_le_bytes(random::bytes()?);
            if number < FAIR {
                return Ok(Self(format!("{:08}", number % CODES)));
            }
        }
    }

    /// The digits.
    pub fn digits(&self) -> &str {
        &self.0
    }
}

/// Text that is no code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a pairing code has {DIGITS} digits")]
pub struct ParseCodeError;

impl FromStr for Code {
    type Err = ParseCodeError;

    /// People write spaces and dashes into numbers; those do not count.
    fn from_str(text: &str) -> Result<Self, ParseCodeError> {
        if text.len() > 4 * DIGITS {
            return Err(ParseCodeError);
        }
        let digits: String = text.chars().filter(|c| !matches!(c, ' ' | '-')).collect();
        let sound = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
        if sound { Ok(Self(digits)) } else { Err(ParseCodeError) }
    }
}

impl fmt::Display for Code {
    /// In two groups, which people read more easily.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (front, back) = self.0.split_at(DIGITS / 2);
        write!(f, "{front} {back}")
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_typed() {
        let code = Code::generate().unwrap();
        assert_eq!(code.to_string().parse(), Ok(code.clone()));
        assert_eq!("1234-5678".parse::<Code>().unwrap().digits(), "12345678");
        for bad in ["1234567", "123456789", "1234567a", "", "１２３４５６７８"] {
            assert!(bad.parse::<Code>().is_err(), "{bad}");
        }
        assert!(!format!("{code:?}").contains(code.digits()));
    }
}
