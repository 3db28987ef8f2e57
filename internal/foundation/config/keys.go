// SPDX-License-Identifier: Apache-2.0

package config

// key explains one key of the file. Default is YAML text; an empty one is the type's zero value.
type key struct {
	Path    string
	Default string
	Doc     string
}

// keys is the table of all keys, in the order of the documentation. A test holds it equal to the fields of [Config].
var keys = []key{
	{"environment", "development", "`production`, `development` or `demo`. Production refuses demo roots and demo cards and wants a `master_key` of its own."},
	{"policy", "ti", "`ti`: the rules of the German telematics infrastructure. `open`: an ordinary federating Matrix homeserver."},
	{"roles", "[homeserver]", "What this node runs: `homeserver`, `registration` (organisations prove themselves by SMC-B), and the network's central services `directory` (VZD-FHIR) and `federation_list`, which `listeners.central` serves. Central services alone open no client or federation listener."},
	{"data", "data", "Folder for everything that is kept in files: the SQLite database, media, the generated master key. Relative paths count from the folder in which the program starts."},

	{"database.url", "", "`sqlite:/path/file.db` or `postgres://user:password@host/name`. Empty: `konsil.db` in the data folder."},
	{"database.readers", "0", "How many read connections one node uses at once. 0: 4 on SQLite, 8 on PostgreSQL."},

	{"tenants", "[]", "Servers that exist from the start: a list of names, or of objects with the keys below. A name needs no dot (`hs1`) and may have a port."},
	{"tenants[].name", "", "The server name: what stands after the colon of its users' ids. It can never be changed."},
	{"tenants[].display_name", "", "The organisation's name for people."},
	{"tenants[].telematik_id", "", "The organisation's Telematik-ID, in TI mode."},
	{"tenants[].insurance", "false", "A health insurer's service for insured people."},
	{"tenants[].client_hosts", "[]", "Host names that serve this tenant's clients beside the server name."},
	{"tenants[].federation_hosts", "[]", "Host names that serve other servers under delegation."},
	{"tenants[].identity_provider.issuer", "", "Address of an OpenID Connect provider by which the tenant's people sign in on the sign-in page, beside passwords. Empty: none. It has to allow the redirect URI `https://<host>/_matrix/oauth2/callback` for each host that the tenant is reached by."},
	{"tenants[].identity_provider.name", "", "What its button says. Empty: the issuer's host."},
	{"tenants[].identity_provider.client_id", "", "The identifier that the provider knows this server by."},
	{"tenants[].identity_provider.client_secret", "", "The secret that goes with it. Empty for a public client."},
	{"tenants[].identity_provider.scopes", "[]", "Scopes asked for beside `openid`. Empty: `profile`."},
	{"tenants[].identity_provider.localpart_claim", "", "Claim that a new account is named by. Empty: `preferred_username`. Who somebody is says `sub` alone."},
	{"tenants[].identity_provider.display_name_claim", "", "Claim with the displayed name of a new account. Empty: `name`."},
	{"tenants[].identity_provider.require_acr", "[]", "Values of `acr` of which one must be in the id token. Empty: any."},
	{"tenants[].identity_provider.require_amr", "[]", "Values of `amr` of which one must be in the id token, for example `otp` or `hwk`. Empty: any."},
	{"tenants[].policy_server.servers", "[]", "Names of servers (globs; `*` for all) that may ask this tenant as the policy server of a room that has chosen it. Empty: it is no policy server. What it signs and how a room chooses it: operating-federation.md."},
	{"tenants[].policy_server.lists", "[]", "Ids of rooms with moderation policies (`m.policy.rule.*`) that hold in all of those rooms, beside each room's own. Somebody of the tenant has to be in them."},
	{"tenants[].policy_server.refuse_types", "[]", "Types of events (globs) that it refuses, for example `m.call.*`."},

	{"listeners.client", `["127.0.0.1:8008"]`, "Addresses for clients: a list of `host:port`, or of objects with the keys below. Plain HTTP unless a certificate is given. Port 0 takes a free one."},
	{"listeners.client[].address", "", "`host:port`; an empty host is every address of the machine."},
	{"listeners.client[].certificate", "", "PEM file with the certificate chain."},
	{"listeners.client[].key", "", "PEM file with the private key."},
	{"listeners.client[].plain", "false", "Without meaning for clients, whose listeners are plain unless a certificate is given."},
	{"listeners.federation", "[]", "Addresses for other servers, with the same keys; TLS is required. Files are read again when they change."},
	{"listeners.federation[].address", "", "`host:port`, usually `:8448`."},
	{"listeners.federation[].certificate", "", "PEM file with the certificate chain."},
	{"listeners.federation[].key", "", "PEM file with the private key."},
	{"listeners.federation[].plain", "false", "Accept plain HTTP, behind a proxy that speaks TLS."},
	{"listeners.central", "[]", "Addresses for the central services, with the same keys as for clients. The roles stand side by side below `central.url`: the directory at `/search`, `/fdv/search`, `/owner`, `/tim-authenticate`, `/owner-authenticate`, `/signin-gematik-idp-dienst`, `/owner-authenticate-decoupled`, `/owner-authenticate-poll`, `/ti-provider-authenticate`, `/service-authenticate`, `/auth/realms/{TI-Provider,Service-Authenticate}/protocol/openid-connect/token`, `/log`; the federation list at `/tim-provider-services`. The VZD of the real network has the same paths."},
	{"listeners.central[].address", "", "`host:port`."},
	{"listeners.central[].certificate", "", "PEM file with the certificate chain."},
	{"listeners.central[].key", "", "PEM file with the private key."},
	{"listeners.central[].plain", "false", "Without meaning here: plain HTTP unless a certificate is given."},
	{"listeners.operator", "", "Address for the operator: `/metrics`, `/livez`, `/readyz`. Never reachable from outside. Empty: none."},
	{"shared_client_hosts", `["127.0.0.1", "::1", "localhost"]`, "Host names that serve the clients of all tenants: the access token or the full user id tells which. `\"*\"` is every host that no tenant claims. With exactly one tenant under `policy: open` they are simply that tenant's."},
	{"trusted_proxies", "[]", "Networks (CIDR) whose `X-Forwarded-For` is believed."},
	{"ca", "[]", "PEM files with further root certificates for outgoing TLS, beside the system's and those of `SSL_CERT_FILE`."},
	{"public_url", "", "Base address that clients are told at login and in `/.well-known/matrix/client`, for example `https://matrix.example.org`. Empty: they are told none."},

	{"master_key.value", "", "Key with which secrets are sealed at rest: 32 bytes in base64. Better given as file."},
	{"master_key.file", "", "File with that key. Empty: `master.key` in the data folder, drawn at the first start (not in production)."},

	{"second_factor", "", "Whether a password alone lets somebody in: `required` asks for a code of an authenticator app beside it, enrolled at the first sign-in, and refuses `m.login.password` but for bots' credentials; `off` does not. Empty: required under `policy: ti` in production (A_22936), which knows no `off`; not elsewhere. Where it is required a tenant's identity provider must prove a second factor by `require_acr` or `require_amr`."},
	{"registration.mode", "closed", "How accounts come to be under `policy: open`: `open` (anybody), `closed` (nobody), `token` (whoever knows one of `registration.tokens`), `shared_secret` (whoever has the secret, by `/_synapse/admin/v1/register`). In TI mode always `closed`."},
	{"registration.secret", "", "The shared secret. With it `/_synapse/admin/v1/register` works in mode `open` too."},
	{"registration.tokens", "[]", "Registration tokens of mode `token`, each for any number of accounts."},
	{"app_services", "", "Folder with registration files (`*.yaml`) of application services."},
	{"rate_limits", "true", "Limit requests per user, address and peer. Switch off only for load generators and test suites."},
	{"private_addresses", "false", "Let outgoing requests reach loopback and private networks, which otherwise only `federation.resolve` may name."},
	{"guests", "false", "Let guests register and read what is open to guests, under `policy: open`."},
	{"presence", "true", "Tell users who is online. Between servers it is sent only when something changes."},

	{"rooms.default_version", "", "Room version of new rooms. Empty: 12 under `policy: open`, 10 under `policy: ti`."},

	{"federation.resolve", "{}", "Server name → `address`, or object with the keys below: how to reach a server that no name service knows."},
	{"federation.resolve.*.address", "", "`host:port` to connect to; the certificate must still be one for the server name."},
	{"federation.resolve.*.ca", "", "PEM file with the only root certificates accepted from this server."},
	{"federation.in_process", "true", "Let tenants of this cell talk by function call instead of HTTP. Everything but sockets and signatures of requests is the same."},
	{"federation.timeout", "30s", "How long a request to another server may take."},
	{"federation.retry.first", "1s", "Wait after the first failure to reach a server."},
	{"federation.retry.factor", "2", "By what the wait grows with each further failure."},
	{"federation.retry.max", "1h", "The longest wait. Any valid request from that server ends it."},
	{"federation.key_servers", "[]", "Servers asked for the keys of servers that do not answer themselves."},
	{"federation.identity_servers", "[]", "Identity servers (`host` or `host:port`) that may be asked for invitations by e-mail address or telephone number, `*` for any. Empty: such invitations answer 403 `M_FORBIDDEN`."},

	{"media.folder", "", "Folder for media. Empty: `media` in the data folder."},
	{"media.max_upload", "100MiB", "Largest file a user may upload."},
	{"media.tenant_quota", "10GiB", "How much a tenant's own media may take."},
	{"media.remote_cache", "5GiB", "How much copies of other servers' media may take per tenant; the least used go first."},
	{"media.max_pixels", "50000000", "Largest image, in pixels, of which thumbnails are made."},
	{"media.legacy_unauthenticated", "false", "Serve media uploaded here to anybody by the deprecated unauthenticated endpoints."},

	{"mail.server", "", "Mail server (`host:port`) through which addresses are confirmed and passwords reset. Empty: this server sends no mail, and accounts have no addresses."},
	{"mail.user", "", "Name for signing in there. Empty: without."},
	{"mail.password", "", "Password for signing in there."},
	{"mail.from", "", "Sender of the mails, for example `Konsil <no-reply@example.org>`."},
	{"mail.encryption", "starttls", "`starttls`, `tls` or `none`."},

	{"turn.uris", "[]", "TURN servers that clients are told for calls, for example `turn:turn.example.org?transport=udp`. Empty: none."},
	{"turn.secret", "", "Secret shared with the TURN servers, from which time-limited names and passwords are made."},
	{"turn.lifetime", "24h", "How long such a password is valid."},

	{"previews.enabled", "false", "Let the server fetch pages of the internet for previews of links, which tells those servers what is being read. Never private networks, unless `private_addresses` is set."},
	{"previews.max_page", "5MiB", "How much of a page is read at most."},
	{"previews.timeout", "10s", "How long a page may take."},

	{"calls.livekit", "[]", "Addresses of services that hand out tokens for calls over LiveKit (MSC4195), as clients are told them. Empty: no calls of several people."},

	{"telematik.federation_list", "", "Address from which the signed federation list is fetched, in TI mode."},
	{"telematik.directory", "", "Address of the VZD-FHIR directory, in TI mode."},
	{"telematik.card_roots", "[]", "PEM files with the roots of card certificates."},
	{"telematik.list_roots", "[]", "PEM files with the certificates that may sign the federation list."},
	{"telematik.roots", "", "Address of the published `roots.json`, looked at weekly: a new root is trusted when a cross certificate joins it to one of `telematik.card_roots` or `telematik.list_roots`. Konsil's own central services have it at `/roots.json` for the test PKI. Empty: the files alone count."},
	{"telematik.ocsp", "", "Address of the OCSP responder that is asked whether a certificate was revoked. An answer counts as long as it says, at most an hour; who cannot be checked is refused, a federation list too (the old one stays). Konsil's own central services have it at `/ocsp` for the test PKI. Empty: in production the responder that each certificate names, otherwise the test PKI's files."},
	{"telematik.provider", "", "The provider's name, as the registration shows it."},
	{"telematik.provider_token", "", "The provider-accesstoken with which the federation list is fetched and changed. At Konsil's own list it is the `token` that `central.providers` names."},
	{"telematik.provider_login.token_url", "", "Instead of `telematik.provider_token`: where client credentials get a ti-provider-accesstoken (at Konsil's own directory `central.url` and `/auth/realms/TI-Provider/protocol/openid-connect/token`)."},
	{"telematik.provider_login.authenticate_url", "", "Where that is exchanged for the provider-accesstoken: `…/ti-provider-authenticate`."},
	{"telematik.provider_login.client_id", "", "The provider's client id; at Konsil's own directory the `name` of `central.providers`."},
	{"telematik.provider_login.client_secret", "", "Its secret; at Konsil's own directory the `token` of `central.providers`."},
	{"telematik.cards", "", "Folder of the test PKI (`konsil card --pki`) whose cards the roles `registration` and `directory` accept. Never in production, where registration waits for the central identity provider and the directory has `telematik.card_roots`. Empty: `cards` in the data folder."},
	{"telematik.matrix_version", "v1.11", "The last version of the client-server API that clients are told of under `policy: ti`, where the network is specified for that one. Newer endpoints are served all the same. Empty: the newest that there is."},

	{"central.url", "", "Base address of the central services as everybody else reaches them, for example `https://vzd.example.org`. Tokens name it as their issuer and audience."},
	{"central.providers", "[]", "The messenger providers that may change the federation list: objects with the keys below."},
	{"central.providers[].name", "", "The provider's name, as the list shows it (`timAnbieter`)."},
	{"central.providers[].token", "", "The secret that proves the provider: at least 16 characters, in production 32."},
	{"central.services", "[]", "Services for insured people (apps of insurers) that may search at `/fdv/search` by client credentials: objects with the keys below."},
	{"central.services[].name", "", "The service's `client_id`."},
	{"central.services[].token", "", "Its `client_secret`, as long as a provider's."},
	{"central.signers", "[]", "Certificates with keys (C.FD.SIG with the role oid_vzd_ti) that sign the federation list: objects with the keys below, brainpoolP256r1 for `BP256R1` and P-256 for `ES256`. Empty: one of the test PKI in `telematik.cards`, never in production."},
	{"central.signers[].certificate", "", "PEM file with the certificate."},
	{"central.signers[].key", "", "PEM file with the private key (`EC PRIVATE KEY`)."},
	{"central.entries", "[]", "NDJSON files with FHIR resources that are put into the directory at each start; what is there already is replaced."},

	{"logging.level", "info", "`debug`, `info`, `warn` or `error`."},
	{"logging.format", "text", "`text` or `json`. User ids are pseudonymised in both."},
	{"logging.access", "true", "One line per request: method, route, tenant, status, time. Never content or tokens."},
	{"logging.file", "", "File to append to. Empty: standard error."},
}
