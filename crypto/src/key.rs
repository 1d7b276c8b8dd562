//! Keys and recoverable ECDSA signatures over secp256k1 (SEC 1, RFC 6979, EIP-2).

use std::fmt;

use k256::{
    ProjectivePoint, Scalar, U256,
    ecdsa::{RecoveryId, SigningKey, VerifyingKey},
    elliptic_curve::{
        ff::PrimeField,
        ops::{MulByGeneratorVartime, Reduce},
        point::AffineCoordinates,
        scalar::IsHigh,
    },
};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    address::Address,
    bytes::{fixed_bytes, hex_text},
    digest::keccak256,
};

/// The bytes are no secp256k1 key: a scalar out of range, or no point of the curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a secp256k1 key")]
pub struct KeyError;

/// Why a signature is refused; every variant is the sender's fault, for every node and for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The last byte is neither 27 nor 28.
    #[error("the recovery byte is {0}, not 27 or 28")]
    RecoveryByte(u8),
    /// r or s is zero, or not below the order of the group.
    #[error("r or s is out of range")]
    OutOfRange,
    /// s is above half the order: the malleated twin of another signature.
    #[error("s is in the upper half")]
    HighS,
    /// The signature is not by the key or address it is claimed for, or by no key at all.
    #[error("not signed by the claimed key")]
    Mismatch,
}

/// A secp256k1 secret key, wiped from memory when dropped and never shown.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// Takes 32 bytes as a big-endian scalar; refuses zero and what is not below the group order.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        SigningKey::from_slice(bytes).map(Self).map_err(|_| KeyError)
    }

    /// The scalar, big-endian, in a buffer that wipes itself.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        let mut scalar = self.0.to_bytes();
        let bytes = Zeroizing::new(scalar.into());
        scalar.zeroize();
        bytes
    }

    /// The public key of this key.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(*self.0.verifying_key())
    }

    /// The address of this key.
    pub fn address(&self) -> Address {
        self.public_key().address()
    }

    /// Signs a 32-byte hash deterministically (RFC 6979 with SHA-256), with s in the lower half.
    pub fn sign_prehash(&self, prehash: &[u8; 32]) -> Signature {
        let (signature, id) = self.0.sign_prehash_recoverable(prehash);
        let mut bytes = [0; 65];
        bytes[..64].copy_from_slice(&signature.to_bytes());
        bytes[64] = 27 + u8::from(id.is_y_odd());
        Signature(bytes)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.address())
    }
}

/// A secp256k1 public key; travels in its compressed SEC 1 form of 33 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Reads the compressed form; refuses what is no point of the curve.
    pub fn from_bytes(bytes: &[u8; 33]) -> Result<Self, KeyError> {
        VerifyingKey::from_sec1_bytes(bytes).map(Self).map_err(|_| KeyError)
    }

    /// The compressed form: 2 or 3 by the parity of y, then x big-endian.
    pub fn to_bytes(&self) -> [u8; 33] {
        let mut bytes = [0; 33];
        bytes.copy_from_slice(self.0.to_sec1_point(true).as_bytes());
        bytes
    }

    /// The Ethereum address of this key.
    pub fn address(&self) -> Address {
        let point = self.0.to_sec1_point(false);
        let hash = keccak256(&point.as_bytes()[1..]);
        let mut address = Address::ZERO;
        address.0.copy_from_slice(&hash[12..]);
        address
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", hex::encode(self.to_bytes()))
    }
}

/// An ECDSA signature as wallets write it: r ‖ s ‖ v, both big-endian, v 27 or 28.
///
/// Holding one says nothing: bytes are only judged by [`verify`], [`recover`] or a keyring.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature(pub [u8; 65]);

fixed_bytes!(Signature, 65);
hex_text!(Signature);

/// Accepts a signature over `prehash` by `key`: one full verification, with the recovery byte checked too.
///
/// Exactly what [`recover`] would answer with `key` is accepted, at less cost.
pub fn verify(key: &PublicKey, prehash: &[u8; 32], signature: &Signature) -> Result<(), SignatureError> {
    let Parts { r, s, y_is_odd } = Parts::of(signature)?;
    let z = scalar_of(prehash);
    let s_inverse = s.invert_vartime().into_option().ok_or(SignatureError::OutOfRange)?;
    let point = ProjectivePoint::mul_by_generator_and_mul_add_vartime(
        &(z * s_inverse),
        &(r * s_inverse),
        &ProjectivePoint::from(*key.0.as_affine()),
    );
    let point = point.to_affine();
    // The whole x, not x modulo the order: v has no room to say that x was reduced.
    // The identity's x is 0, which r is not.
    let fits = point.x() == r.to_repr() && bool::from(point.y_is_odd()) == y_is_odd;
    fits.then_some(()).ok_or(SignatureError::Mismatch)
}

/// The only public key for which [`verify`] accepts this signature over `prehash`.
pub fn recover(prehash: &[u8; 32], signature: &Signature) -> Result<PublicKey, SignatureError> {
    let parts = Parts::of(signature)?;
    let rs =
        k256::ecdsa::Signature::from_scalars(parts.r, parts.s).map_err(|_| SignatureError::OutOfRange)?;
    VerifyingKey::recover_from_prehash(prehash, &rs, RecoveryId::new(parts.y_is_odd, false))
        .map(PublicKey)
        .map_err(|_| SignatureError::Mismatch)
}

struct Parts {
    r: Scalar,
    s: Scalar,
    y_is_odd: bool,
}

impl Parts {
    fn of(signature: &Signature) -> Result<Self, SignatureError> {
        let y_is_odd = match signature.0[64] {
            27 => false,
            28 => true,
            other => return Err(SignatureError::RecoveryByte(other)),
        };
        let rs =
            k256::ecdsa::Signature::from_slice(&signature.0[..64]).map_err(|_| SignatureError::OutOfRange)?;
        let (r, s) = rs.split_scalars();
        if bool::from(s.is_high()) {
            return Err(SignatureError::HighS);
        }
        Ok(Self { r: *r, s: *s, y_is_odd })
    }
}

fn scalar_of(prehash: &[u8; 32]) -> Scalar {
    <Scalar as Reduce<U256>>::reduce(&U256::from_be_slice(prehash))
}
