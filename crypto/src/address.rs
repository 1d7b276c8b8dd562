//! Wallet addresses, names and pool ids.

use std::{fmt, str::FromStr};

use crate::{
    bytes::{ParseError, fixed_bytes, from_hex, hex_text},
    digest::keccak256,
};

/// An Ethereum address: the last 20 bytes of the Keccak-256 of an uncompressed public key.
///
/// Its text is `0x` and 40 hexadecimal digits with the EIP-55 checksum; digits all in lower case are read too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Address(pub [u8; 20]);

fixed_bytes!(Address, 20);

impl Address {
    /// Twenty zero bytes: nobody.
    pub const ZERO: Self = Self([0; 20]);
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = hex::encode(self.0);
        let hash = hex::encode(keccak256(text.as_bytes()));
        // EIP-55: a letter is upper case where the digit of the hash of the lower case text is at least 8.
        for (index, digit) in hash.bytes().take(text.len()).enumerate() {
            if digit >= b'8' {
                text[index..=index].make_ascii_uppercase();
            }
        }
        write!(f, "0x{text}")
    }
}

impl FromStr for Address {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let digits = text.strip_prefix("0x").ok_or(ParseError::NoPrefix)?;
        let address = Self(from_hex(digits)?);
        let lower = !digits.bytes().any(|digit| digit.is_ascii_uppercase());
        if lower || address.to_string() == text { Ok(address) } else { Err(ParseError::Checksum) }
    }
}

/// The hash of a dotted name (ENSIP-1), which must already be normalised; the empty name is 32 zero bytes.
pub fn namehash(name: &str) -> [u8; 32] {
    if name.is_empty() {
        return [0; 32];
    }
    name.rsplit('.').fold([0; 32], |node, label| {
        let mut preimage = [0; 64];
        preimage[..32].copy_from_slice(&node);
        preimage[32..].copy_from_slice(&keccak256(label.as_bytes()));
        keccak256(&preimage)
    })
}

/// The 32 bytes that name a pool in every statement, and the salt of its signature domain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PoolId(pub [u8; 32]);

fixed_bytes!(PoolId, 32);
hex_text!(PoolId);

impl PoolId {
    /// `keccak256(namehash(name) ‖ operator ‖ chain id as 32 bytes big-endian ‖ contract)`;
    /// chain id and contract are zero where there is no chain.
    pub fn derive(name: &str, operator: Address, chain_id: u64, contract: Address) -> Self {
        let mut preimage = [0; 104];
        preimage[..32].copy_from_slice(&namehash(name));
        preimage[32..52].copy_from_slice(&operator.0);
        preimage[76..84].copy_from_slice(&chain_id.to_be_bytes());
        preimage[84..].copy_from_slice(&contract.0);
        Self(keccak256(&preimage))
    }
}
