// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package testdriver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Version is that of the interface.
const Version = "2.3.0"

// Account is who a device signs in as when the suite names nobody else.
type Account struct {
	// User is the full Matrix ID or, with the server's name behind it, whatever the server takes as login name ("@anna.weber:praxis.example").
	User     string `json:"user"`
	Password string `json:"password"`
	// Name and TelematikID are what stands on the account's card, empty where it has none.
	Name        string `json:"name,omitempty"`
	TelematikID string `json:"telematik_id,omitempty"`
}

// Capabilities are the kind of client, as the suite reads them from the interface.
type Capabilities struct {
	Organization bool `json:"canAdministrateFhirOrganization"`
	Practitioner bool `json:"canAdministrateFhirPractitioner"`
	Messages     bool `json:"canSendMessages"`
	Insurance    bool `json:"isInsurance"`
	Pro          bool `json:"isPro"`
	VersionThree bool `json:"isVersionThree"`
	Reference    bool `json:"isReferenceImplementation"`
}

// Options shape a driver.
type Options struct {
	Capabilities
	// Homeserver is the server name, URL the base address of its client API, Directory that of the directory.
	Homeserver, URL, Directory string
	// Accounts make one device each.
	Accounts []Account
	// Registration is the provider's registration service, which vouches for an organisation's administrator at the directory.
	Registration string
	// CardOwner proves the holder of an account's card to the directory and returns the owner token; nil where no card can be used.
	CardOwner func(ctx context.Context, a Account) (string, error)
	// Software and SoftwareVersion name the client and the server under test.
	Software, SoftwareVersion string
	// Agent is what the client says of itself.
	Agent Agent
	// Transport carries the requests to homeserver and directory; nil is the usual one.
	Transport http.RoundTripper
	// Now is the clock for claims; nil: time.Now.
	Now func() time.Time
}

// Driver serves the interface for one kind of client. It is safe for concurrent use; requests to one device wait for each other.
type Driver struct {
	o       Options
	http    *http.Client
	devices []*device

	mu       sync.Mutex
	services map[string]bool // ids of the HealthcareServices that this driver has created
}

// New returns a driver. Nobody is signed in yet.
func New(o Options) *Driver {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Transport == nil {
		o.Transport = &http.Transport{}
	}
	o.Transport = naming{o.Transport, o.Agent.header(o.Organization && !o.Messages)}
	d := &Driver{o: o, http: &http.Client{Transport: o.Transport}, services: map[string]bool{}}
	for i, a := range o.Accounts {
		d.devices = append(d.devices, &device{driver: d, id: i + 1, own: a, account: a})
	}
	return d
}

// Close drops all connections; sessions stay signed in.
func (d *Driver) Close() {
	for _, v := range d.devices {
		v.mu.Lock()
		v.drop()
		v.mu.Unlock()
	}
}

// failure is an answer of the interface that is not a success.
type failure struct {
	status  int
	code    string
	message string
}

// Error is the message.
func (f *failure) Error() string { return f.code + ": " + f.message }

func fail(status int, code, format string, a ...any) error {
	return &failure{status, code, fmt.Sprintf(format, a...)}
}

// Handler serves the interface at the root.
func (d *Driver) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", d.plain(http.StatusOK, func(*http.Request) (any, error) { return d.info(), nil }))
	mux.HandleFunc("POST /{$}", d.plain(http.StatusOK, func(r *http.Request) (any, error) { return nil, d.cleanUp(r.Context()) }))
	mux.HandleFunc("GET /devices", d.plain(http.StatusOK, func(*http.Request) (any, error) { return d.list(), nil }))
	for pattern, o := range operations {
		method, path, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" /devices/{device}"+path, d.onDevice(o))
	}
	return mux
}

// operation is what one route does with a device that the request has for itself.
type operation struct {
	status int
	// signedIn says that the operation needs an account; it begins with a sync then, so that it sees what has happened meanwhile.
	signedIn bool
	do       func(ctx context.Context, v *device, r *http.Request) (any, error)
}

var operations = map[string]operation{}

func init() {
	for _, group := range []map[string]operation{deviceOperations, roomOperations, messageOperations, authorizationOperations, searchOperations, directoryOperations} {
		for pattern, o := range group {
			operations[pattern] = o
		}
	}
}

func (d *Driver) plain(status int, do func(r *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := do(r)
		answer(w, status, v, err)
	}
}

func (d *Driver) onDevice(o operation) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.PathValue("device"))
		i := slices.IndexFunc(d.devices, func(v *device) bool { return v.id == n })
		if err != nil || i < 0 {
			answer(w, 0, nil, fail(http.StatusNotFound, "NOT_FOUND", "there is no device %.20s", r.PathValue("device")))
			return
		}
		v := d.devices[i]
		v.mu.Lock()
		defer v.mu.Unlock()
		result, err := v.run(r, o)
		answer(w, o.status, result, err)
	}
}

// info describes client and server under test.
func (d *Driver) info() any {
	contact := map[string]any{"name": d.o.Software}
	software := func() map[string]any {
		return map[string]any{"name": d.o.Software, "version": d.o.SoftwareVersion, "matrixVersion": "1.11", "applicationType": "Native", "osInfo": map[string]any{"operatingSystem": "Linux"}, "contact": contact}
	}
	client := software()
	for name, has := range d.o.tags() {
		client[name] = has
	}
	return map[string]any{
		"title": d.o.Software + " test driver", "description": "A headless client behind gematik's test interface", "homeserver": d.o.Homeserver, "contact": contact,
		"clientInfo": client, "fachdienstInfo": software(), "testDriverVersion": Version,
	}
}

func (c Capabilities) tags() map[string]bool {
	return map[string]bool{"canAdministrateFhirOrganization": c.Organization, "canAdministrateFhirPractitioner": c.Practitioner, "canSendMessages": c.Messages,
		"isInsurance": c.Insurance, "isPro": c.Pro, "isVersionThree": c.VersionThree, "isReferenceImplementation": c.Reference}
}

func (d *Driver) list() any {
	all := []any{}
	for _, v := range d.devices {
		v.mu.Lock()
		all = append(all, v.describe())
		v.mu.Unlock()
	}
	return map[string]any{"devices": all}
}

// cleanUp takes back what earlier tests have left: rooms, permission configurations, entries in the directory, sessions.
func (d *Driver) cleanUp(ctx context.Context) error {
	var errs []error
	for _, v := range d.devices {
		v.mu.Lock()
		errs = append(errs, v.cleanUp(ctx))
		v.mu.Unlock()
	}
	if err := errors.Join(errs...); err != nil {
		return fail(http.StatusInternalServerError, "CLEAN_UP", "%v", err)
	}
	return nil
}
