// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package testdriver

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"github.com/konsil-health/konsil/internal/tour/messenger"
)

// device is one client that the suite can claim.
type device struct {
	driver *Driver
	id     int
	own    Account // who it signs in as by itself

	mu      sync.Mutex // held over a whole request
	claimer string
	until   time.Time
	account Account // who it is signed in as, or was last

	client *messenger.Device    // nil: signed out
	name   string               // display name
	backup bool                 // new room keys go to the key backup
	used   bool                 // a test has signed in since the last clean-up
	owner  string               // the directory's owner token
	search string               // the directory's search token
	asleep map[id.UserID][]byte // keys of the dehydrated devices that signing out has left
	files  map[string]*event.EncryptedFileInfo
	kinds  map[string]string // MIME types of files
}

var deviceOperations = map[string]operation{
	"POST /claim":       {status: http.StatusOK, do: claim},
	"POST /unclaim":     {status: http.StatusOK, do: unclaim},
	"GET /account":      {status: http.StatusOK, signedIn: true, do: readAccount},
	"POST /login":       {status: http.StatusOK, do: login},
	"POST /logout":      {status: http.StatusOK, do: logout},
	"GET /account/key":  {status: http.StatusOK, signedIn: true, do: exportKey},
	"POST /account/key": {status: http.StatusNoContent, signedIn: true, do: importKey},
}

// run does an operation and keeps the claim alive.
func (v *device) run(r *http.Request, o operation) (any, error) {
	ctx := r.Context()
	if o.signedIn {
		if v.client == nil {
			return nil, fail(http.StatusUnauthorized, "UNAUTHORIZED", "nobody is signed in on device %d", v.id)
		}
		if err := v.client.Sync(ctx, 0); err != nil {
			return nil, err
		}
	}
	result, err := o.do(ctx, v, r)
	if err != nil {
		return nil, err
	}
	if v.backup && v.client != nil {
		if _, err := v.client.BackUp(ctx); err != nil {
			return nil, err
		}
	}
	return result, nil
}

func (v *device) describe() map[string]any {
	m := map[string]any{"deviceId": v.id, "deviceName": v.driver.o.Homeserver + " " + v.own.User, "deviceStatus": "free", "claimerName": "", "claimedUntil": time.Unix(0, 0).UTC().Format(time.RFC3339)}
	if v.claimed() {
		m["deviceStatus"], m["claimerName"], m["claimedUntil"] = "claimed", v.claimer, v.until.UTC().Format(time.RFC3339)
	}
	if v.own.TelematikID != "" {
		m["cn"], m["telematikId"] = v.own.Name, v.own.TelematikID
	}
	return m
}

func (v *device) claimed() bool { return v.claimer != "" && v.driver.o.Now().Before(v.until) }

// shortestClaim is the interface's, in seconds.
const shortestClaim = 60

func claim(_ context.Context, v *device, r *http.Request) (any, error) {
	var request struct {
		Name string `json:"claimerName"`
		For  int    `json:"claimFor"` // seconds
	}
	if err := body(r, &request); err != nil {
		return nil, err
	}
	if request.Name == "" || request.For < shortestClaim || v.claimed() {
		return nil, fail(http.StatusBadRequest, "CLAIM", "a free device is claimed by a name for %d seconds at least", shortestClaim)
	}
	v.claimer, v.until = request.Name, v.driver.o.Now().Add(time.Duration(request.For)*time.Second)
	return v.describe(), nil
}

func unclaim(_ context.Context, v *device, _ *http.Request) (any, error) {
	if !v.claimed() {
		return nil, fail(http.StatusBadRequest, "CLAIM", "device %d is not claimed", v.id)
	}
	v.claimer = ""
	return v.describe(), nil
}

func login(ctx context.Context, v *device, r *http.Request) (any, error) {
	var request struct {
		User     string `json:"username"`
		Password string `json:"password"`
		Stage    string `json:"authStage"`
	}
	if err := body(r, &request); err != nil {
		return nil, err
	}
	account := v.own
	if request.User != "" {
		account = Account{User: request.User, Password: request.Password}
		if !strings.HasPrefix(account.User, "@") {
			account.User = "@" + account.User + ":" + v.driver.o.Homeserver
		}
	}
	if v.client != nil {
		if err := v.signOut(ctx); err != nil {
			return nil, err
		}
	}
	if err := v.signIn(ctx, account); err != nil {
		return nil, err
	}
	return v.describeAccount(), nil
}

func (v *device) signIn(ctx context.Context, a Account) error {
	client, err := messenger.Open(ctx, messenger.Options{URL: v.driver.o.URL, User: a.User, Password: a.Password, Transport: v.driver.o.Transport})
	if err != nil {
		return err
	}
	v.client, v.account, v.used, v.backup, v.owner, v.search = client, a, true, false, "", ""
	v.files, v.kinds = map[string]*event.EncryptedFileInfo{}, map[string]string{}
	profile, err := client.Client.GetOwnDisplayName(ctx)
	switch {
	case err == nil:
		v.name = profile.DisplayName
	case errors.Is(err, mautrix.MNotFound):
		v.name = "" // nobody has given one
	default:
		return err
	}
	if key, ok := v.asleep[client.User()]; ok {
		if err := client.Rehydrate(ctx, key); err != nil {
			return err
		}
		delete(v.asleep, client.User())
	}
	return client.Sync(ctx, 0)
}

func (v *device) signOut(ctx context.Context) error {
	_, err := v.client.Client.Logout(ctx)
	v.drop()
	return err
}

func (v *device) drop() {
	if v.client != nil {
		v.client.Close()
	}
	v.client = nil
}

func logout(ctx context.Context, v *device, _ *http.Request) (any, error) {
	if v.client == nil {
		return nil, fail(http.StatusBadRequest, "LOGOUT", "nobody is signed in on device %d", v.id)
	}
	if v.driver.o.Messages { // whoever writes meanwhile finds a device to write to (A_26574)
		key, err := v.client.Dehydrate(ctx)
		if err != nil {
			return nil, err
		}
		if v.asleep == nil {
			v.asleep = map[id.UserID][]byte{}
		}
		v.asleep[v.client.User()] = key
	}
	return nil, v.signOut(ctx)
}

func readAccount(_ context.Context, v *device, _ *http.Request) (any, error) {
	return v.describeAccount(), nil
}

func (v *device) describeAccount() any {
	return map[string]any{"mxid": v.client.User().String(), "username": v.client.User().String(), "password": v.account.Password, "displayName": v.name, "accessToken": v.client.Client.AccessToken}
}

func exportKey(ctx context.Context, v *device, _ *http.Request) (any, error) {
	key, err := v.client.SetUp(ctx, v.account.Password)
	if err != nil {
		return nil, err
	}
	v.backup = true
	return map[string]any{"mxId": map[string]any{"mxid": v.client.User().String()}, "key": key}, nil
}

func importKey(ctx context.Context, v *device, r *http.Request) (any, error) {
	var request struct {
		Key string `json:"key"`
	}
	if err := body(r, &request); err != nil {
		return nil, err
	}
	if err := v.client.Recover(ctx, request.Key); err != nil {
		return nil, fail(http.StatusBadRequest, "KEY", "%v", err)
	}
	return nil, nil
}

// cleanUp leaves and forgets all rooms, resets the permission configuration, takes the own entries out of the directory and signs out.
func (v *device) cleanUp(ctx context.Context) error {
	if !v.used {
		return nil
	}
	if v.client == nil {
		if err := v.signIn(ctx, v.account); err != nil {
			return err
		}
	}
	if err := v.client.Sync(ctx, 0); err != nil {
		return err
	}
	var errs []error
	for room := range v.client.Invitations() {
		errs = append(errs, v.leaveAndForget(ctx, room))
	}
	for _, r := range v.client.Rooms() {
		errs = append(errs, v.leaveAndForget(ctx, r.ID))
	}
	if v.driver.o.Messages {
		errs = append(errs, v.resetPermissions(ctx))
	}
	errs = append(errs, v.cleanDirectory(ctx), v.signOut(ctx))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	v.used, v.account = false, v.own
	return nil
}

func (v *device) leaveAndForget(ctx context.Context, room id.RoomID) error {
	var err error
	if r := v.client.Room(room); !r.Left {
		_, err = v.client.Client.LeaveRoom(ctx, room)
	}
	if err == nil {
		_, err = v.client.Client.ForgetRoom(ctx, room)
	}
	if err == nil || errors.Is(err, mautrix.MNotFound) { // another device of the account has forgotten it, and the server with it
		v.client.Forget(room)
		return nil
	}
	return err
}
