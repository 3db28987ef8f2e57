-- SPDX-License-Identifier: Apache-2.0
-- Owned by federation. When a destination last acknowledged a transaction (ms), for operators: written at most once a minute.
CREATE TABLE federation_delivered (
    tenant BIGINT NOT NULL,
    destination TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (tenant, destination)
);
