//! A table of figures, two columns side by side.

/// Figures of two programs and their ratio.
pub struct Table {
    title: String,
    columns: [&'static str; 2],
    rows: Vec<[String; 4]>,
}

impl Table {
    /// An empty table.
    pub fn new(title: &str, columns: [&'static str; 2]) -> Self {
        Self { title: title.to_owned(), columns, rows: Vec::new() }
    }

    /// A rate of both programs. The ratio is above one where the first program is the better.
    pub fn both(&mut self, what: &str, unit: &str, [ours, theirs]: [f64; 2]) {
        let ratio = ours / theirs;
        let ratio = if ratio < 1.0 { format!("1 : {:.1}", 1.0 / ratio) } else { format!("{ratio:.1} : 1") };
        self.rows.push([what.to_owned(), figure(ours, unit), figure(theirs, unit), ratio]);
    }

    /// A figure that only the first program has.
    pub fn ours(&mut self, what: &str, unit: &str, value: f64) {
        self.rows.push([what.to_owned(), figure(value, unit), "-".to_owned(), String::new()]);
    }

    /// Prints it.
    pub fn print(&self) {
        let head =
            [self.title.clone(), self.columns[0].to_owned(), self.columns[1].to_owned(), "ratio".to_owned()];
        let widths: Vec<usize> = (0..4)
            .map(|column| self.rows.iter().chain([&head]).map(|row| row[column].len()).max().unwrap_or(0))
            .collect();
        println!();
        for row in [&head].into_iter().chain(&self.rows) {
            let [what, ours, theirs, ratio] = row;
            let [a, b, c, d] = [widths[0], widths[1], widths[2], widths[3]];
            println!("{what:a$}   {ours:>b$}   {theirs:>c$}   {ratio:>d$}");
        }
    }
}

fn figure(value: f64, unit: &str) -> String {
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {unit}")
}
