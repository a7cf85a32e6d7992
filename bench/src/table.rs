//! A table of figures, two columns side by side.

/// Which of two figures is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// The greater: a rate.
    More,
    /// The lesser: a time, or what something costs.
    Less,
}

/// Figures of two programs, their ratio and what it should be.
pub struct Table {
    title: String,
    columns: [&'static str; 2],
    rows: Vec<[String; COLUMNS]>,
}

/// With the one that says what is measured.
const COLUMNS: usize = 5;

impl Table {
    /// An empty table.
    pub fn new(title: &str, columns: [&'static str; 2]) -> Self {
        Self { title: title.to_owned(), columns, rows: Vec::new() }
    }

    /// A rate of both programs. The ratio is above one where the first program is the better.
    pub fn both(&mut self, what: &str, unit: &str, figures: [f64; 2]) {
        self.compare(what, unit, Better::More, figures.map(Some), None);
    }

    /// Figures of both programs, as far as they have come to any. The ratio is above one where the first program is the
    /// better, and should be `bar` at the least.
    pub fn compare(
        &mut self,
        what: &str,
        unit: &str,
        better: Better,
        figures: [Option<f64>; 2],
        bar: Option<f64>,
    ) {
        let [ours, theirs] =
            figures.map(|value| value.map_or("failed".to_owned(), |value| figure(value, unit)));
        let ratio = match (better, figures) {
            (Better::More, [Some(ours), Some(theirs)]) => Some(ours / theirs),
            (Better::Less, [Some(ours), Some(theirs)]) => Some(theirs / ours),
            _ => None,
        };
        let shown = match ratio {
            Some(ratio) if ratio < 1.0 => format!("1 : {:.1}", 1.0 / ratio),
            Some(ratio) => format!("{ratio:.1} : 1"),
            None => String::new(),
        };
        let judged = bar.map_or(String::new(), |bar| {
            let met = if ratio.is_some_and(|ratio| ratio >= bar) { "met" } else { "missed" };
            format!(">= {bar}, {met}")
        });
        self.rows.push([what.to_owned(), ours, theirs, shown, judged]);
    }

    /// A figure that only the first program has.
    pub fn ours(&mut self, what: &str, unit: &str, value: f64) {
        self.rows.push([what.to_owned(), figure(value, unit), "-".to_owned(), String::new(), String::new()]);
    }

    /// Prints it.
    pub fn print(&self) {
        println!();
        self.lines().iter().for_each(|line| println!("{line}"));
    }

    fn lines(&self) -> Vec<String> {
        let [ours, theirs] = self.columns;
        let judged = if self.rows.iter().all(|row| row[COLUMNS - 1].is_empty()) { "" } else { "should be" };
        let head = [&self.title, ours, theirs, "ratio", judged].map(str::to_owned);
        let rows = || [&head].into_iter().chain(&self.rows);
        let widths: [usize; COLUMNS] =
            std::array::from_fn(|column| rows().map(|row| row[column].len()).max().unwrap_or(0));
        let [a, b, c, d, e] = widths;
        let line = |[what, ours, theirs, ratio, bar]: &[String; COLUMNS]| {
            let line = format!("{what:a$}   {ours:>b$}   {theirs:>c$}   {ratio:>d$}   {bar:e$}");
            line.trim_end().to_owned()
        };
        rows().map(line).collect()
    }
}

fn figure(value: f64, unit: &str) -> String {
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {unit}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_above_one_where_the_first_is_better() {
        let mut table = Table::new("net", ["us", "them"]);
        table.compare("rate", "/s", Better::More, [Some(30.0), Some(10.0)], Some(2.0));
        table.compare("time", "µs", Better::Less, [Some(30.0), Some(10.0)], Some(1.0));
        table.compare("none", "/s", Better::More, [Some(1.0), None], Some(1.0));
        table.ours("cost", "", 0.5);
        let expected = [
            "net           us       them     ratio   should be",
            "rate     30.0 /s    10.0 /s   3.0 : 1   >= 2, met",
            "time   30.0 µs   10.0 µs   1 : 3.0   >= 1, missed",
        ];
        let lines = table.lines();
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for (line, expected) in lines.iter().zip(expected) {
            assert_eq!(words(line), words(expected));
        }
        assert_eq!(words(&lines[3]), ["none", "1.00", "/s", "failed", ">=", "1,", "missed"]);
        assert_eq!(words(&lines[4]), ["cost", "0.50", "-"]);
    }

    #[test]
    fn without_bars_there_is_no_column_for_them() {
        let mut table = Table::new("disk", ["us", "them"]);
        table.both("reads", "/s", [5.0, 10.0]);
        let expected = ["disk         us      them     ratio", "reads   5.00 /s   10.0 /s   1 : 2.0"];
        assert_eq!(table.lines(), expected);
    }
}
