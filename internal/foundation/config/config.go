// SPDX-License-Identifier: Apache-2.0

package config

import (
	"time"

	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Config is the checked configuration of one node. The field tags are the keys of the file; keys.go explains each.
type Config struct {
	Environment       string       `key:"environment"`
	Policy            string       `key:"policy"`
	Roles             []string     `key:"roles"`
	Data              string       `key:"data"`
	Database          Database     `key:"database"`
	Tenants           []Tenant     `key:"tenants"`
	Listeners         Listeners    `key:"listeners"`
	SharedClientHosts []string     `key:"shared_client_hosts"`
	TrustedProxies    []string     `key:"trusted_proxies"`
	CA                []string     `key:"ca"`
	PublicURL         string       `key:"public_url"`
	MasterKey         MasterKey    `key:"master_key"`
	Registration      Registration `key:"registration"`
	AppServices       string       `key:"app_services"`
	RateLimits        bool         `key:"rate_limits"`
	PrivateAddresses  bool         `key:"private_addresses"`
	Guests            bool         `key:"guests"`
	SecondFactor      string       `key:"second_factor"`
	Presence          bool         `key:"presence"`
	Rooms             Rooms        `key:"rooms"`
	Federation        Federation   `key:"federation"`
	Media             Media        `key:"media"`
	Mail              Mail         `key:"mail"`
	TURN              TURN         `key:"turn"`
	Previews          Previews     `key:"previews"`
	Calls             Calls        `key:"calls"`
	Telematik         Telematik    `key:"telematik"`
	Central           Central      `key:"central"`
	Proxy             Proxy        `key:"proxy"`
	Logging           Logging      `key:"logging"`

	// Ignored lists variables named KONSIL_… that are no key, worth a warning: they are often misspelt, or set by an orchestrator.
	Ignored []string `key:"-"`
}

// The environments. Production refuses demo roots and cards and wants its own master key.
const (
	Production  = "production"
	Development = "development"
	Demo        = "demo"
)

// The policies.
const (
	PolicyOpen = "open" // an ordinary Matrix homeserver
	PolicyTI   = "ti"   // the rules of the telematics infrastructure
)

// The registration modes.
const (
	RegistrationOpen         = "open"
	RegistrationClosed       = "closed"
	RegistrationSharedSecret = "shared_secret"
	RegistrationToken        = "token"
)

// The roles of a node.
const (
	RoleHomeserver = "homeserver"
	RoleDirectory  = "directory"
	RoleFedList    = "federation_list"
	RoleRegistry   = "registration"
	RoleProxy      = "proxy"
)

// Database says where the database is.
type Database struct {
	URL     string `key:"url"`
	Readers int    `key:"readers"`
}

// Tenant is a server that must exist at start; it is made when it does not.
type Tenant struct {
	Name            id.Server        `key:"name"`
	DisplayName     string           `key:"display_name"`
	TelematikID     string           `key:"telematik_id"`
	Insurance       bool             `key:"insurance"`
	ClientHosts     []string         `key:"client_hosts"`
	FederationHosts []string         `key:"federation_hosts"`
	Provider        IdentityProvider `key:"identity_provider"`
	PolicyServer    PolicyServer     `key:"policy_server"`
}

// PolicyServer makes a tenant sign what belongs in rooms that have chosen it; without servers that may ask it is no policy server.
type PolicyServer struct {
	Servers     []string `key:"servers"`
	Lists       []string `key:"lists"`
	RefuseTypes []string `key:"refuse_types"`
}

// IdentityProvider is an OpenID Connect provider by which a tenant's people sign in; without an issuer there is none.
type IdentityProvider struct {
	Issuer           string   `key:"issuer"`
	Name             string   `key:"name"`
	ClientID         string   `key:"client_id"`
	ClientSecret     string   `key:"client_secret"`
	Scopes           []string `key:"scopes"`
	LocalpartClaim   string   `key:"localpart_claim"`
	DisplayNameClaim string   `key:"display_name_claim"`
	RequireACR       []string `key:"require_acr"`
	RequireAMR       []string `key:"require_amr"`
}

// UnmarshalText lets a tenant be written as its name alone.
func (t *Tenant) UnmarshalText(text []byte) error {
	name, err := id.ParseServer(string(text))
	t.Name = name
	return err
}

// Listeners are the addresses a node accepts on.
type Listeners struct {
	Client     []Listener `key:"client"`
	Federation []Listener `key:"federation"`
	Central    []Listener `key:"central"`
	Operator   string     `key:"operator"`
}

// Listener is one address; with certificate and key it speaks TLS.
type Listener struct {
	Address     string `key:"address"`
	Certificate string `key:"certificate"`
	Key         string `key:"key"`
	// Plain accepts federation without TLS, behind a proxy that has it.
	Plain bool `key:"plain"`
}

// UnmarshalText lets a listener be written as its address alone.
func (l *Listener) UnmarshalText(text []byte) error {
	l.Address = string(text)
	return nil
}

// MasterKey is what secrets are sealed with at rest: 32 bytes in base64, given here or in a file.
type MasterKey struct {
	Value string `key:"value"`
	File  string `key:"file"`
}

// Registration says how accounts come to be in plain Matrix mode.
type Registration struct {
	Mode   string   `key:"mode"`
	Secret string   `key:"secret"`
	Tokens []string `key:"tokens"`
}

// Mail says how mail is sent; without a server none is.
type Mail struct {
	Server     string `key:"server"`
	User       string `key:"user"`
	Password   string `key:"password"`
	From       string `key:"from"`
	Encryption string `key:"encryption"`
}

// TURN names relays for calls, which share a secret with this server.
type TURN struct {
	URIs     []string      `key:"uris"`
	Secret   string        `key:"secret"`
	Lifetime time.Duration `key:"lifetime"`
}

// Previews says whether the server fetches pages for previews of links.
type Previews struct {
	Enabled bool          `key:"enabled"`
	MaxPage Size          `key:"max_page"`
	Timeout time.Duration `key:"timeout"`
}

// Rooms holds what concerns rooms.
type Rooms struct {
	DefaultVersion string    `key:"default_version"`
	Retention      Retention `key:"retention"`
}

// Retention says how long messages live.
type Retention struct {
	Enabled bool          `key:"enabled"`
	Default time.Duration `key:"default"`
	Min     time.Duration `key:"min"`
	Max     time.Duration `key:"max"`
}

// Federation holds what concerns talking with other servers.
type Federation struct {
	Resolve   map[string]Resolve `key:"resolve"`
	InProcess bool               `key:"in_process"`
	Timeout   time.Duration      `key:"timeout"`
	Retry     Retry              `key:"retry"`
	KeyServer []string           `key:"key_servers"`
	// Identity may be asked about third-party invites; "*" stands for every identity server.
	Identity []string `key:"identity_servers"`
}

// Resolve replaces discovery for one server name.
type Resolve struct {
	Address string `key:"address"`
	CA      string `key:"ca"`
}

// UnmarshalText lets an entry be written as its address alone.
func (r *Resolve) UnmarshalText(text []byte) error {
	r.Address = string(text)
	return nil
}

// Retry is the back-off towards a server that does not answer: it begins at First, grows by Factor, ends at Max.
type Retry struct {
	First  time.Duration `key:"first"`
	Factor float64       `key:"factor"`
	Max    time.Duration `key:"max"`
}

// Media holds limits of the media store. Sizes are bytes.
type Media struct {
	Folder        string `key:"folder"`
	MaxUpload     Size   `key:"max_upload"`
	TenantQuota   Size   `key:"tenant_quota"`
	RemoteCache   Size   `key:"remote_cache"`
	UserQuota     Size   `key:"user_quota"`
	MaxPixels     int    `key:"max_pixels"`
	LegacyEnabled bool   `key:"legacy_unauthenticated"`
	Clamd         string `key:"clamd"`
	S3            S3     `key:"s3"`
}

// S3 names the bucket of an S3-compatible store in which media are kept instead of files.
type S3 struct {
	Endpoint  string `key:"endpoint"`
	Bucket    string `key:"bucket"`
	Region    string `key:"region"`
	AccessKey string `key:"access_key"`
	SecretKey string `key:"secret_key"`
	Prefix    string `key:"prefix"`
	Plain     bool   `key:"plain"`
}

// Calls holds what concerns calls of several people (MatrixRTC).
type Calls struct {
	LiveKit []string `key:"livekit"`
}

// The values of second_factor; empty is what the policy asks for.
const (
	SecondFactorRequired = "required"
	SecondFactorOff      = "off"
)

// Who enforces permission configurations.
const (
	PermissionServer = "server"
	PermissionClient = "client"
)

// NeedsSecondFactor says whether a password alone lets nobody in (A_22936): in TI mode unless it is switched off, which production refuses.
func (c *Config) NeedsSecondFactor() bool {
	return c.SecondFactor == SecondFactorRequired || c.SecondFactor == "" && c.Policy == PolicyTI
}

// Telematik holds what concerns the national network.
type Telematik struct {
	FederationList string `key:"federation_list"`
	Directory      string `key:"directory"`
	// MessengerDomain is the domain below which registered organisations get their names.
	MessengerDomain id.Server `key:"messenger_domain"`
	CardService     string    `key:"card_service"`
	CardRoots       []string  `key:"card_roots"`
	ListRoots       []string  `key:"list_roots"`
	Roots           string    `key:"roots"`
	OCSP            string    `key:"ocsp"`
	Provider        string    `key:"provider"`
	ProviderToken   string    `key:"provider_token"`
	ProviderLogin   Login     `key:"provider_login"`
	Cards           string    `key:"cards"`
	MatrixVersion   string    `key:"matrix_version"`
	// OrphanedRooms is how old the last event of an orphaned room is when it goes, InsuredAlone how long insured people stay in a room without a
	// professional; 0 for ever.
	OrphanedRooms time.Duration `key:"orphaned_rooms"`
	InsuredAlone  time.Duration `key:"insured_alone"`
	// PermissionCheck is who enforces permission configurations: the server, or the invitees' clients.
	PermissionCheck   string  `key:"permission_check"`
	ContactManagement bool    `key:"contact_management"`
	IDP               CardIDP `key:"idp"`
}

// CardIDP is the identity provider by which people sign in with their cards; without an issuer they do not.
type CardIDP struct {
	Issuer   string `key:"issuer"`
	ClientID string `key:"client_id"`
	Agent    string `key:"agent"`
}

// Central holds what concerns the central services of the network: directory and federation list.
type Central struct {
	URL       string            `key:"url"`
	Providers []CentralProvider `key:"providers"`
	Services  []CentralProvider `key:"services"`
	Parties   []RelyingParty    `key:"parties"`
	Signers   []Signer          `key:"signers"`
	Entries   []string          `key:"entries"`
}

// CentralProvider is a provider as the federation list knows it: its name and the secret that proves it.
type CentralProvider struct {
	Name  string `key:"name"`
	Token string `key:"token"`
}

// RelyingParty is who may ask the test identity provider for whom a card speaks.
type RelyingParty struct {
	ClientID     string   `key:"client_id"`
	RedirectURIs []string `key:"redirect_uris"`
}

// Login is how a provider gets its tokens from the real network's directory.
type Login struct {
	TokenURL        string `key:"token_url"`
	AuthenticateURL string `key:"authenticate_url"`
	ClientID        string `key:"client_id"`
	ClientSecret    string `key:"client_secret"`
}

// Signer is a component's certificate with its private key.
type Signer struct {
	Certificate string `key:"certificate"`
	Key         string `key:"key"`
}

// Proxy holds what concerns the role proxy: the rules in front of somebody else's homeserver.
type Proxy struct {
	Homeserver     string   `key:"homeserver"`
	Federation     string   `key:"federation"`
	BlockByDefault bool     `key:"block_by_default"`
	Outbound       string   `key:"outbound"`
	PushGateways   []string `key:"push_gateways"`
	SSOHosts       []string `key:"sso_hosts"`
}

// Logging shapes the log.
type Logging struct {
	Level  string `key:"level"`
	Format string `key:"format"`
	Access bool   `key:"access"`
	File   string `key:"file"`
}

// FederationListPath ends the address of the federation list; what stands before it is the interface by which a provider changes the list.
const FederationListPath = "/FederationList/federationList.jws"

// HasRole says whether the node runs a role.
func (c *Config) HasRole(role string) bool {
	for _, r := range c.Roles {
		if r == role {
			return true
		}
	}
	return false
}

// IsCentral says whether the node runs one of the network's central services.
func (c *Config) IsCentral() bool { return c.HasRole(RoleDirectory) || c.HasRole(RoleFedList) }

// SoleTenant is the only configured tenant of plain Matrix mode, to which shared hosts then belong; empty with none, several or in TI mode.
func (c *Config) SoleTenant() id.Server {
	if c.Policy == PolicyOpen && len(c.Tenants) == 1 {
		return c.Tenants[0].Name
	}
	return ""
}
