//! Errors in one line, for people.

use std::error::Error;

/// An error with all its causes in one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for cause in std::iter::successors(Some(error), |error| (**error).source()) {
        let words = cause.to_string();
        // Errors that are transparent repeat the words of their source.
        if text.is_empty() {
            text = words;
        } else if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
    }
    text
}
