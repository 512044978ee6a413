//! Turns a list of settings into a plain struct, its defaults, and the table that loading and the reference go by, so
//! that a setting is written down once.

use super::read::{Raw, Shown};

/// What the reference tells about a setting.
pub(super) struct Known {
    /// Its path, levels joined by dots.
    pub(super) name: String,
    /// The default, as a reader would write it.
    pub(super) default: String,
    /// The binaries that look at it.
    pub(super) used_by: &'static str,
    /// The text of its doc comment.
    pub(super) meaning: &'static str,
}

/// Why a setting could not be set.
#[derive(Debug)]
pub(super) enum SetError {
    /// Nothing has this name.
    Unknown,
    /// The value is not one; the text says what is, and ends an "expected …".
    Malformed(String),
}

/// A struct of settings: the root, or one below it.
pub(super) trait Section {
    /// Adds every setting to the table, with the values of this struct as defaults.
    fn list(&self, prefix: &str, table: &mut Vec<Known>);

    /// Sets one, by its path from here.
    fn set(&mut self, name: &str, raw: &Raw<'_>) -> Result<(), SetError>;
}

pub(super) fn entry(prefix: &str, name: &str, default: &impl Shown, used_by: &'static str, meaning: &'static str) -> Known {
    Known { name: format!("{prefix}{name}"), default: default.shown(), used_by, meaning }
}

/// `field: Type = default, reader, "used by";` where the reader is a `Fn(&Raw) -> Result<Type, String>` of `read`.
macro_rules! settings {
    (
        $(#[doc = $section_doc:literal])+
        $section:ident { $($(#[doc = $doc:literal])+ $field:ident: $type:ty = $default:expr, $read:expr, $used_by:literal;)* }
        sections { $($inner:ident: $inner_type:ident),* }
    ) => {
        $(#[doc = $section_doc])+
        #[derive(Debug, Clone, PartialEq)]
        pub struct $section {
            $($(#[doc = $doc])+ #[doc = concat!("\n\nUsed by: ", $used_by, ".")] pub $field: $type,)*
            $(#[doc = concat!("See [`", stringify!($inner_type), "`].")] pub $inner: $inner_type,)*
        }

        impl Default for $section {
            fn default() -> Self {
                Self { $($field: $default,)* $($inner: <$inner_type>::default(),)* }
            }
        }

        impl $crate::settings::declare::Section for $section {
            fn list(&self, prefix: &str, table: &mut Vec<$crate::settings::declare::Known>) {
                $(table.push($crate::settings::declare::entry(
                    prefix, stringify!($field), &self.$field, $used_by, concat!($($doc),+),
                ));)*
                $(self.$inner.list(concat!(stringify!($inner), "."), table);)*
            }

            fn set(
                &mut self, name: &str, raw: &$crate::settings::read::Raw<'_>,
            ) -> Result<(), $crate::settings::declare::SetError> {
                use $crate::settings::declare::SetError;
                $(if name == stringify!($field) {
                    self.$field = ($read)(raw).map_err(SetError::Malformed)?;
                    return Ok(());
                })*
                $(if let Some(rest) = name.strip_prefix(concat!(stringify!($inner), ".")) {
                    return self.$inner.set(rest, raw);
                })*
                Err(SetError::Unknown)
            }
        }
    };
}

pub(super) use settings;
