-- SPDX-License-Identifier: Apache-2.0
-- Owned by account: whose card is whose account. number is the Telematik-ID, which a replaced card keeps; used is when the card was shown first, 0 where
-- an administrator has entered the number and nobody has come yet; published says that the person has put the own address into the directory with it.
CREATE TABLE card_link (
    tenant BIGINT NOT NULL,
    number TEXT NOT NULL,
    user_id TEXT NOT NULL,
    profession TEXT NOT NULL,
    created BIGINT NOT NULL,
    used BIGINT NOT NULL,
    published BIGINT NOT NULL,
    PRIMARY KEY (tenant, number)
);
CREATE UNIQUE INDEX card_link_user ON card_link (tenant, user_id);
-- Codes by which an administrator lets somebody join their card with an account, once; hash is of the code.
CREATE TABLE card_code (
    tenant BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    hash BYTEA NOT NULL,
    expires BIGINT NOT NULL,
    PRIMARY KEY (tenant, user_id)
);
CREATE UNIQUE INDEX card_code_hash ON card_code (tenant, hash);
-- Owned by oauth: browsers that are at the card's authenticator: state and cookie are hashes, origin and target the page to come back to, user_id who
-- joins a card with the account that is signed in (empty for a sign-in).
CREATE TABLE card_visit (
    tenant BIGINT NOT NULL,
    state BYTEA NOT NULL,
    cookie BYTEA NOT NULL,
    nonce TEXT NOT NULL,
    verifier TEXT NOT NULL,
    origin TEXT NOT NULL,
    target TEXT NOT NULL,
    user_id TEXT NOT NULL,
    expires BIGINT NOT NULL,
    PRIMARY KEY (tenant, state)
);
CREATE INDEX card_visit_expires ON card_visit (tenant, expires);
-- Browsers in which a card was shown that belongs to no account yet.
CREATE TABLE card_step (
    tenant BIGINT NOT NULL,
    hash BYTEA NOT NULL,
    number TEXT NOT NULL,
    profession TEXT NOT NULL,
    name TEXT NOT NULL,
    expires BIGINT NOT NULL,
    PRIMARY KEY (tenant, hash)
);
CREATE INDEX card_step_expires ON card_step (tenant, expires);
-- Browsers that wait until the directory has seen the card: request is the sealed name of its sign-in, visible what is wished.
CREATE TABLE card_publication (
    tenant BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    request TEXT NOT NULL,
    address TEXT NOT NULL,
    visible BOOLEAN NOT NULL,
    expires BIGINT NOT NULL,
    PRIMARY KEY (tenant, user_id)
);
