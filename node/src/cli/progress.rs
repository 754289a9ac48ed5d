//! How far a long command is.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a spinner turns.
const TICK: Duration = Duration::from_millis(100);

/// The moving line of a step of unknown length.
const SPINNER: &str = "{spinner} {msg} ({elapsed})";
/// The moving line of a step of so many bytes.
const BYTES: &str = "{msg} [{wide_bar}] {bytes}/{total_bytes} ({eta} left)";

/// Tells on stderr how far a long command is: a moving line on a terminal, one plain line a step elsewhere.
///
/// Nothing is shown after [`Progress::done`] but the steps that were told; dropping it without `done` (the command
/// failed) also clears the moving line.
#[derive(Debug)]
pub struct Progress {
    mode: Mode,
}

#[derive(Debug)]
enum Mode {
    Silent,
    Lines,
    /// The bar, and the step that it shows.
    Terminal(ProgressBar, Mutex<Option<String>>),
}

impl Progress {
    /// Shows nothing.
    pub fn silent() -> Self {
        Self { mode: Mode::Silent }
    }

    /// Shows on stderr, in the form that fits it.
    pub fn on_stderr() -> Self {
        if !io::stderr().is_terminal() {
            return Self { mode: Mode::Lines };
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(spinner());
        Self { mode: Mode::Terminal(bar, Mutex::new(None)) }
    }

    /// The step before is over; this one begins.
    pub fn step(&self, text: impl AsRef<str>) {
        let text = text.as_ref();
        match &self.mode {
            Mode::Silent => {}
            // Progress that nobody can see is no reason to fail.
            Mode::Lines => _ = writeln!(io::stderr().lock(), "{text}"),
            Mode::Terminal(bar, _) => {
                self.end_step();
                bar.set_style(spinner());
                bar.unset_length();
                bar.reset();
                bar.set_message(text.to_owned());
                bar.enable_steady_tick(TICK);
                self.remember(Some(text.to_owned()));
            }
        }
    }

    /// This much of the present step is done. Shown on a terminal only.
    pub fn bytes(&self, done: u64, total: u64) {
        if let Mode::Terminal(bar, _) = &self.mode {
            if bar.length() != Some(total) {
                bar.set_style(bytes_bar());
                bar.set_length(total);
            }
            bar.set_position(done);
        }
    }

    /// The command has succeeded.
    pub fn done(&self) {
        self.end_step();
    }

    /// Leaves the finished step on the terminal, with the time that it took.
    fn end_step(&self) {
        if let Mode::Terminal(bar, _) = &self.mode
            && let Some(text) = self.remember(None)
        {
            let seconds = bar.elapsed().as_secs_f64();
            bar.println(format!("  {text} ({seconds:.1} s)"));
            bar.finish_and_clear();
        }
    }

    fn remember(&self, step: Option<String>) -> Option<String> {
        let Mode::Terminal(_, present) = &self.mode else { return None };
        // A panic elsewhere cannot leave a half-written step.
        let mut present = present.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        std::mem::replace(&mut *present, step)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Mode::Terminal(bar, _) = &self.mode {
            bar.finish_and_clear();
        }
    }
}

fn spinner() -> ProgressStyle {
    styled(ProgressStyle::default_spinner(), SPINNER)
}

fn bytes_bar() -> ProgressStyle {
    styled(ProgressStyle::default_bar(), BYTES)
}

fn styled(style: ProgressStyle, template: &str) -> ProgressStyle {
    style.clone().template(template).unwrap_or(style)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use indicatif::TermLike;

    use super::*;

    const WIDTH: usize = 80;

    /// A terminal: its lines, and the row and column of the cursor. A full line wraps when the next letter comes.
    #[derive(Debug, Clone, Default)]
    struct Screen(Arc<Mutex<Cells>>);

    /// Lines, row, column.
    type Cells = (Vec<Vec<char>>, usize, usize);

    impl Screen {
        fn lines(&self) -> Vec<String> {
            let lines = self.0.lock().unwrap().0.clone();
            let lines = lines.iter().map(|line| line.iter().collect::<String>().trim_end().to_owned());
            lines.filter(|line| !line.is_empty()).collect()
        }

        fn put(&self, letter: char) {
            let (lines, row, column) = &mut *self.0.lock().unwrap();
            if letter == '\r' {
                *column = 0;
                return;
            }
            if letter == '\n' || *column == WIDTH {
                (*row, *column) = (*row + 1, 0);
            }
            if lines.len() <= *row {
                lines.resize(*row + 1, vec![' '; WIDTH]);
            }
            if letter != '\n' {
                lines[*row][*column] = letter;
                *column += 1;
            }
        }
    }

    impl TermLike for Screen {
        fn width(&self) -> u16 {
            WIDTH as u16
        }
        fn move_cursor_up(&self, n: usize) -> io::Result<()> {
            let (_, row, _) = &mut *self.0.lock().unwrap();
            *row = row.saturating_sub(n);
            Ok(())
        }
        fn move_cursor_down(&self, n: usize) -> io::Result<()> {
            self.0.lock().unwrap().1 += n;
            Ok(())
        }
        fn move_cursor_right(&self, n: usize) -> io::Result<()> {
            self.0.lock().unwrap().2 += n;
            Ok(())
        }
        fn move_cursor_left(&self, n: usize) -> io::Result<()> {
            let (_, _, column) = &mut *self.0.lock().unwrap();
            *column = column.saturating_sub(n);
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)?;
            self.put('\n');
            Ok(())
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            text.chars().for_each(|letter| self.put(letter));
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            let (lines, row, column) = &mut *self.0.lock().unwrap();
            if let Some(line) = lines.get_mut(*row) {
                line.fill(' ');
            }
            *column = 0;
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn on(screen: &Screen) -> Progress {
        let target = ProgressDrawTarget::term_like(Box::new(screen.clone()));
        Progress { mode: Mode::Terminal(ProgressBar::with_draw_target(None, target), Mutex::new(None)) }
    }

    #[test]
    fn templates_are_valid() {
        for template in [SPINNER, BYTES] {
            assert!(ProgressStyle::default_bar().template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn finished_steps_stay_and_the_moving_line_goes() {
        let screen = Screen::default();
        let progress = on(&screen);
        progress.step("making the disk");
        progress.bytes(1, 2);
        progress.step("booting");
        let lines = screen.lines();
        assert!(lines[0].starts_with("  making the disk (0."), "{lines:?}");
        progress.done();
        let lines = screen.lines();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[1].starts_with("  booting (0."), "{lines:?}");
    }

    #[test]
    fn a_step_that_failed_is_not_told_as_finished() {
        let screen = Screen::default();
        let progress = on(&screen);
        progress.step("booting");
        drop(progress);
        assert_eq!(screen.lines(), Vec::<String>::new());
    }
}
