-- SPDX-License-Identifier: Apache-2.0
-- What a search needs of each candidate, without the row that holds the resource's text; and indexes that hold all that a filter asks for.
CREATE INDEX directory_resource_entry ON directory_resource (nid, type, active, hidden, sort);
DROP INDEX directory_string_value;
CREATE INDEX directory_string_value ON directory_string (param, value, nid);
DROP INDEX directory_token_code;
CREATE INDEX directory_token_code ON directory_token (param, code, system, nid);
DROP INDEX directory_position_place;
CREATE INDEX directory_position_place ON directory_position (latitude, longitude, nid);
