use swarm_crypto::{Address, ParseError, PoolId, address::namehash, digest::keccak256};

/// The examples of EIP-55.
const CHECKSUMMED: [&str; 8] = [
    "0x52908400098527886E0F7030069857D2E4169EE7",
    "0x8617E340B3D01FA5F11F306F4090FD50E238070D",
    "0xde709f2102306220921060314715629080e2fb77",
    "0x27b1fdb04752bbc536007a920d24acb045561c26",
    "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
    "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
    "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
    "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
];

#[test]
fn checksums_are_those_of_eip_55() {
    for text in CHECKSUMMED {
        let address: Address = text.parse().unwrap();
        assert_eq!(address.to_string(), text);
        assert_eq!(text.to_lowercase().parse(), Ok(address));
    }
}

#[test]
fn mistyped_addresses_are_refused() {
    let parse = |text: &str| text.parse::<Address>();
    assert_eq!(parse("0x5AAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"), Err(ParseError::Checksum));
    assert_eq!(parse("0x5AAEB6053F3E94C9B9A09F33669435E7EF1BEAED"), Err(ParseError::Checksum));
    assert_eq!(parse("5aaeb6053f3e94c9b9a09f33669435e7ef1beaed"), Err(ParseError::NoPrefix));
    assert_eq!(parse("0X5aaeb6053f3e94c9b9a09f33669435e7ef1beaed"), Err(ParseError::NoPrefix));
    assert_eq!(parse("0x5aaeb6"), Err(ParseError::Length { expected: 40, found: 6 }));
    assert_eq!(parse("0xgaaeb6053f3e94c9b9a09f33669435e7ef1beaed"), Err(ParseError::NotHex));
}

#[test]
fn names_hash_as_ensip_1_says() {
    assert_eq!(namehash(""), [0; 32]);
    assert_eq!(
        hex::encode(namehash("eth")),
        "93cdeb708b7545dc668eb9280176169d1c33cfd8ed6f04690a0bcc88a93fc4ae"
    );
    assert_eq!(
        hex::encode(namehash("foo.eth")),
        "de9b09fd7c5f901e23a3f19fecc54828e9c848539801e86591bd9801b019f84f"
    );
}

#[test]
fn a_pool_id_hashes_its_four_parts_in_order() {
    let (operator, contract) = (Address([0x11; 20]), Address([0x22; 20]));
    let packed = [
        "de9b09fd7c5f901e23a3f19fecc54828e9c848539801e86591bd9801b019f84f".to_owned(),
        "11".repeat(20),
        format!("{:064x}", 31_337),
        "22".repeat(20),
    ];
    let expected = keccak256(&hex::decode(packed.concat()).unwrap());
    assert_eq!(PoolId::derive("foo.eth", operator, 31_337, contract), PoolId(expected));

    let base = PoolId::derive("foo.eth", operator, 1, contract);
    assert_ne!(base, PoolId::derive("fooo.eth", operator, 1, contract));
    assert_ne!(base, PoolId::derive("foo.eth", contract, 1, contract));
    assert_ne!(base, PoolId::derive("foo.eth", operator, 2, contract));
    assert_ne!(base, PoolId::derive("foo.eth", operator, 1, operator));
}
