-- SPDX-License-Identifier: Apache-2.0
-- Account data that its user has deleted (MSC3391): kept with empty content, so that other devices learn of it.
ALTER TABLE account_data ADD COLUMN deleted BOOLEAN NOT NULL DEFAULT FALSE;
