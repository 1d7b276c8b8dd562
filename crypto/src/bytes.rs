//! Fixed-size byte strings: how they are parsed and how they travel.

use std::{fmt, marker::PhantomData, str::FromStr};

use serde::{Deserializer, de};

/// Why a text is not the fixed-size byte string it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The text has the wrong number of characters.
    #[error("expected {expected} hexadecimal characters, found {found}")]
    Length {
        /// How many hexadecimal characters the type has, any `0x` not counted.
        expected: usize,
        /// How many there were.
        found: usize,
    },
    /// A character is not hexadecimal.
    #[error("not hexadecimal")]
    NotHex,
    /// An address does not begin with `0x`.
    #[error("an address begins with 0x")]
    NoPrefix,
    /// An address in mixed case does not carry its EIP-55 checksum.
    #[error("the address's upper and lower case letters do not match its EIP-55 checksum")]
    Checksum,
}

/// Decodes exactly `N` bytes of hexadecimal in either case, without a prefix.
pub(crate) fn from_hex<const N: usize>(text: &str) -> Result<[u8; N], ParseError> {
    if text.len() != 2 * N {
        return Err(ParseError::Length { expected: 2 * N, found: text.len() });
    }
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| ParseError::NotHex)?;
    Ok(bytes)
}

/// Reads a byte string of exactly `N` bytes, or its text where the format is human readable.
pub(crate) fn deserialize<'de, D, T, const N: usize>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: From<[u8; N]> + FromStr<Err = ParseError>,
{
    if deserializer.is_human_readable() {
        deserializer.deserialize_str(BytesOrText::<T, N> { text: true, of: PhantomData })
    } else {
        deserializer.deserialize_bytes(BytesOrText::<T, N> { text: false, of: PhantomData })
    }
}

struct BytesOrText<T, const N: usize> {
    text: bool,
    of: PhantomData<T>,
}

impl<T, const N: usize> de::Visitor<'_> for BytesOrText<T, N>
where
    T: From<[u8; N]> + FromStr<Err = ParseError>,
{
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{N} bytes")
    }

    // Also in the human readable case: serde's buffering of tagged enums calls itself human readable.
    fn visit_bytes<E: de::Error>(self, value: &[u8]) -> Result<T, E> {
        <[u8; N]>::try_from(value).map(T::from).map_err(|_| E::invalid_length(value.len(), &self))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<T, E> {
        if !self.text {
            return Err(E::invalid_type(de::Unexpected::Str(value), &self));
        }
        value.parse().map_err(E::custom)
    }
}

/// Gives a `[u8; N]` newtype its conversions, `Debug` as `Display`, and its serde form:
/// a byte string, or its `Display` text where the format is human readable.
macro_rules! fixed_bytes {
    ($type:ident, $length:literal) => {
        impl $type {
            #[doc = concat!("The ", stringify!($length), " bytes.")]
            pub const fn as_bytes(&self) -> &[u8; $length] {
                &self.0
            }
        }

        impl From<[u8; $length]> for $type {
            fn from(bytes: [u8; $length]) -> Self {
                Self(bytes)
            }
        }

        impl AsRef<[u8]> for $type {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_bytes(&self.0)
                }
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                crate::bytes::deserialize::<D, Self, $length>(deserializer)
            }
        }
    };
}

/// `Display` and `FromStr` as plain hexadecimal: lower case out, either case in.
macro_rules! hex_text {
    ($type:ident) => {
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl std::str::FromStr for $type {
            type Err = crate::bytes::ParseError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                crate::bytes::from_hex(text).map(Self)
            }
        }
    };
}

pub(crate) use {fixed_bytes, hex_text};
