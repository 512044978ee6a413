//! Pages of the admin API as lines: fetched one after the other until there are enough, shown as a table or as JSON.

use std::io::{self, Write as _};

use carillon_platform::service::Failure;
use serde_json::Value;

use super::server::Server;

/// Lines of one page, the most that a server gives.
const PAGE: usize = 1000;

/// What is asked for, and how it is shown.
pub(super) struct Shown<'a> {
    /// `rooms`, say: the last part of the path, and the field of the answer.
    pub(super) what: &'a str,
    /// Behind the question mark, each with a `&` at its end.
    pub(super) query: String,
    /// The most that is shown.
    pub(super) limit: usize,
    /// As JSON, one object per line.
    pub(super) json: bool,
    /// Title and field of each column; the last one is not padded.
    pub(super) columns: &'a [(&'a str, &'a str)],
}

pub(super) async fn run(server: &Server, shown: Shown<'_>) -> Result<(), Failure> {
    let Shown { what, query, limit, json, columns } = shown;
    let (mut lines, mut after) = (Vec::new(), String::new());
    let (mut count, mut missing) = (Value::Null, Value::Null);
    while lines.len() < limit {
        let page = PAGE.min(limit - lines.len());
        let mut answer = server.get(&format!("/admin/api/{what}?{query}limit={page}{after}")).await?;
        count = answer["count"].take();
        missing = answer["missing"].take();
        match answer[what].take() {
            Value::Array(found) => lines.extend(found),
            _ => return Err(Failure::world("the server says what no Carillon says")),
        }
        match answer["next"].as_str() {
            Some(next) => after = format!("&after={}", encoded(next)),
            None => break,
        }
    }
    if !missing.is_null() {
        eprintln!("not all have answered: {missing} is missing");
    }
    let text = if json { lines.iter().map(|line| format!("{line}\n")).collect() } else { table(columns, &lines) };
    if !json && count.as_u64().is_some_and(|count| count > lines.len() as u64) {
        eprintln!("{} of {count}", lines.len());
    }
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever has read enough may go (`carillon rooms | head`).
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::world(error)),
        _ => Ok(()),
    }
}

fn table(columns: &[(&str, &str)], lines: &[Value]) -> String {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut rows: Vec<Vec<String>> = vec![columns.iter().map(|(title, _)| (*title).to_owned()).collect()];
    rows.extend(lines.iter().map(|line| columns.iter().map(|(_, field)| text(&line[*field])).collect()));
    let widths: Vec<usize> =
        (0..columns.len()).map(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0)).collect();
    let mut out = String::new();
    for row in &rows {
        for (at, cell) in row.iter().enumerate() {
            match at + 1 == row.len() {
                true => out.push_str(cell),
                false => out.push_str(&format!("{cell:<width$}  ", width = widths[at])),
            }
        }
        out.push('\n');
    }
    out
}

/// Percent-encoded (RFC 3986, section 2.1).
pub(super) fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let lines = [serde_json::json!({ "n": 1, "room": "a" }), serde_json::json!({ "n": 1000, "room": "b c" })];
        assert_eq!(table(&[("N", "n"), ("ROOM", "room")], &lines), "N     ROOM\n1     a\n1000  b c\n");
    }

    #[test]
    fn names_are_encoded() {
        assert_eq!(encoded("1.chat:ä&"), "1.chat%3A%C3%A4%26");
    }
}
