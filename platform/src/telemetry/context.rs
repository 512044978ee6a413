//! Where a trace goes on: W3C Trace Context, level 1 (<https://www.w3.org/TR/trace-context-1/>). Only sampled traces have one
//! here; a trace that is not sampled leaves nothing behind.

use std::fmt;

/// A span of a sampled trace, as others name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Context {
    pub(super) trace: u128,
    pub(super) span: u64,
}

/// What a `traceparent` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// There is none, or none that can be read: whoever begins a trace decides.
    None,
    /// It is not traced, and what belongs to it is not either.
    Unsampled,
    /// It is traced.
    Sampled(Context),
}

impl Parent {
    /// Reads a header or a field.
    pub fn of(traceparent: &str) -> Self {
        let Some((context, is_sampled)) = parse(traceparent) else { return Self::None };
        if is_sampled { Self::Sampled(context) } else { Self::Unsampled }
    }
}

impl Context {
    /// Reads a field that only sampled traces fill; `""` is none.
    pub fn parse(traceparent: &str) -> Option<Self> {
        match Parent::of(traceparent) {
            Parent::Sampled(context) => Some(context),
            Parent::Unsampled | Parent::None => None,
        }
    }
}

/// `traceparent`, as of version 00.
impl fmt::Display for Context {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "00-{:032x}-{:016x}-01", self.trace, self.span)
    }
}

/// Of a later version, what version 00 says is read (section 4.3).
fn parse(text: &str) -> Option<(Context, bool)> {
    let is_lower = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let mut fields = text.splitn(5, '-');
    let mut field = |length| fields.next().filter(|field| field.len() == length && is_lower(field));
    let (version, trace, span, flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
    if version == "ff" || (version == "00" && fields.next().is_some()) {
        return None;
    }
    let context = Context { trace: u128::from_str_radix(trace, 16).ok()?, span: u64::from_str_radix(span, 16).ok()? };
    let is_sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
    (context.trace != 0 && context.span != 0).then_some((context, is_sampled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_travel_as_text() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = Context::parse(text).unwrap();
        assert_eq!(context.to_string(), text);
        assert_eq!(Parent::of(&text.replace("-01", "-00")), Parent::Unsampled);
        assert_eq!(Parent::of(&text.replace("-01", "-03")), Parent::Sampled(context));
        assert_eq!(Parent::of(&format!("{}-more", text.replacen("00", "01", 1))), Parent::Sampled(context));
    }

    #[test]
    fn what_is_no_context_is_none() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let bad = [
            String::new(),
            good.replacen("00", "ff", 1),
            good.to_uppercase(),
            format!("{good}-more"),
            good.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            good.replace("00f067aa0ba902b7", &"0".repeat(16)),
            good[..good.len() - 1].to_owned(),
            good.replace("4bf9", "+bf9"),
            "\u{e9}".repeat(40),
        ];
        for text in bad {
            assert_eq!(Parent::of(&text), Parent::None, "{text}");
        }
    }
}
