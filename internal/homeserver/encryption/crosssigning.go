// SPDX-License-Identifier: Apache-2.0

package encryption

import (
	"bytes"
	"context"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/signing"
)

var errInvalidSignature = mxerror.New(400, "M_INVALID_SIGNATURE", "The signature is not valid")

type crossRequest struct {
	Auth        jsontext.Value `json:"auth"`
	Master      jsontext.Value `json:"master_key"`
	SelfSigning jsontext.Value `json:"self_signing_key"`
	UserSigning jsontext.Value `json:"user_signing_key"`
}

// given are the keys of the request by usage.
func (q *crossRequest) given(user id.User) (map[string]*crossKey, error) {
	keys := map[string]*crossKey{}
	for usage, raw := range map[string]jsontext.Value{usageMaster: q.Master, usageSelfSigning: q.SelfSigning, usageUserSigning: q.UserSigning} {
		if len(raw) == 0 || raw.Kind() == 'n' {
			continue
		}
		k, err := readCrossKey(raw, user, usage)
		if err != nil {
			return nil, err
		}
		keys[usage] = k
	}
	return keys, nil
}

// uploadCrossSigning stores cross-signing keys. The first ones need no further proof of presence, nor does repeating those that are stored
// (since v1.11, MSC3967); replacing needs the password.
func (s *Service) uploadCrossSigning(ctx context.Context, r *httpapi.Request) (any, error) {
	var q crossRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	t, user := r.Tenant, r.Session.User
	given, err := q.given(user)
	if err != nil {
		return nil, err
	}
	old, err := s.keysOf(ctx, t.ID, user, "")
	if err != nil {
		return nil, err
	}
	if err := checkCrossKeys(given, old, user); err != nil {
		return nil, err
	}
	fresh := map[string]*crossKey{}
	for usage, k := range given {
		if old.public[usage] != k.public {
			fresh[usage] = k
		}
	}
	if len(fresh) == 0 {
		return nil, nil
	}
	if old.cross[usageMaster] != nil {
		if challenge, err := s.o.Accounts.Confirm(ctx, r, "keys/device_signing/upload", q.Auth); challenge != nil || err != nil {
			return challenge, err
		}
	}
	if err := s.checkKeyNames(ctx, t.ID, user, given); err != nil {
		return nil, err
	}
	return nil, s.storeCrossKeys(ctx, t, user, given, fresh)
}

// checkCrossKeys checks that there is a master key and that it signed the others.
func checkCrossKeys(given map[string]*crossKey, old *userKeys, user id.User) error {
	master := old.public[usageMaster]
	if k := given[usageMaster]; k != nil {
		master = k.public
	}
	if master == "" {
		return mxerror.MissingParam.With("there is no master key")
	}
	for _, usage := range []string{usageSelfSigning, usageUserSigning} {
		k := given[usage]
		if k != nil && !signedBy(k.canonical, user, id.KeyID("ed25519:"+master), master) {
			return errInvalidSignature.With("the %s key is not signed by the master key", usage)
		}
	}
	return nil
}

// checkKeyNames refuses a key that is named like one of the user's devices: signatures could not tell them apart.
func (s *Service) checkKeyNames(ctx context.Context, t tenant.ID, user id.User, given map[string]*crossKey) error {
	devices, err := s.o.Accounts.Devices(ctx, t, user)
	if err != nil {
		return err
	}
	for _, d := range devices {
		for _, k := range given {
			if k.public == string(d.ID) {
				return mxerror.Forbidden.With("a key has the id of a device")
			}
		}
	}
	return nil
}

// storeCrossKeys writes what is new. With a new master key the keys that it did not sign go.
func (s *Service) storeCrossKeys(ctx context.Context, t *tenant.Tenant, user id.User, given, fresh map[string]*crossKey) error {
	plan := &stream.Plan{Tenant: t.ID, Unique: []string{"cross_signing:" + string(user)}}
	if fresh[usageMaster] != nil {
		for _, usage := range []string{usageSelfSigning, usageUserSigning} {
			if given[usage] == nil {
				plan.Rows = append(plan.Rows, stream.Statement{SQL: "DELETE FROM cross_signing_key WHERE tenant = $1 AND user_id = $2 AND usage = $3",
					Args: []any{int64(t.ID), string(user), usage}})
			}
		}
	}
	for usage, k := range given {
		plan.Rows = append(plan.Rows, upsertCross(t.ID, user, usage, k))
	}
	if err := s.announce(ctx, t, user, plan, change{}); err != nil {
		return err
	}
	_, err := s.o.Committer.Commit(ctx, plan)
	return err
}

type signaturesReply struct {
	Failures map[id.User]map[string]failure `json:"failures"`
}

// uploadSignatures stores signatures of the caller on their own devices and master key, and on other people's master keys.
func (s *Service) uploadSignatures(ctx context.Context, r *httpapi.Request) (any, error) {
	var q map[id.User]map[string]jsontext.Value
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	t, user := r.Tenant, r.Session.User
	own, err := s.keysOf(ctx, t.ID, user, user)
	if err != nil {
		return nil, err
	}
	reply := signaturesReply{Failures: map[id.User]map[string]failure{}}
	plan := &stream.Plan{Tenant: t.ID}
	var changes []change
	foreign := false
	for target, objects := range q {
		theirs := own
		if target != user {
			if theirs, err = s.masterOf(ctx, r, target); err != nil {
				return nil, err
			}
		}
		for name, object := range objects {
			found, err := check(user, own, target, theirs, name, object)
			if err != nil {
				if reply.Failures[target] == nil {
					reply.Failures[target] = map[string]failure{}
				}
				reply.Failures[target][name] = failureOf(err)
				continue
			}
			for _, sig := range found {
				s.addSignatureRow(plan, target, sig, target != user)
			}
			switch {
			case target != user:
				foreign = true
			case name == own.public[usageMaster]:
				changes = append(changes, change{})
			default:
				changes = append(changes, change{device: id.Device(name)})
			}
		}
	}
	if foreign { // the rows above carry position 0 of the plan
		plan.Changes = append(plan.Changes, stream.Change{Kind: stream.DeviceList, Users: []id.User{user}})
	}
	if len(changes) > 0 {
		if err := s.announce(ctx, t, user, plan, changes...); err != nil {
			return nil, err
		}
	}
	if len(plan.Changes) > 0 {
		if _, err := s.o.Committer.Commit(ctx, plan); err != nil {
			return nil, err
		}
	}
	return reply, nil
}

// addSignatureRow stores one signature. One on somebody else's key carries the position at which the signer's own devices learn of it.
func (s *Service) addSignatureRow(plan *stream.Plan, target id.User, sig signature, foreign bool) {
	var position any = int64(0)
	if foreign {
		position = stream.At(0)
	}
	stmt := stream.Statement{SQL: `INSERT INTO key_signature (tenant, user_id, target, signer, signer_key, signature, position) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (tenant, user_id, target, signer, signer_key) DO UPDATE SET signature = excluded.signature, position = excluded.position`,
		Args: []any{int64(plan.Tenant), string(target), sig.target, string(sig.signer), string(sig.key), sig.signature, position}}
	plan.Positioned = append(plan.Positioned, stmt)
}

// masterOf returns what is known of somebody else's master key, asking their server when nothing is.
func (s *Service) masterOf(ctx context.Context, r *httpapi.Request, user id.User) (*userKeys, error) {
	if user.Server() != r.Tenant.Name {
		if _, err := s.fresh(ctx, r.Tenant, user); err != nil {
			s.o.Log.Debug("device list not fetched", "server", string(user.Server()), "error", err)
		}
	}
	k, err := s.keysOf(ctx, r.Tenant.ID, user, r.Session.User)
	if err != nil || k.cross[usageMaster] != nil || user.Server() == r.Tenant.Name || s.reachable(ctx, r.Tenant, user.Server()) != nil {
		return k, err
	}
	raw, err := s.o.Remote.QueryKeys(ctx, r.Tenant, user.Server(), queryRequest{Devices: map[id.User][]id.Device{user: {}}})
	if err != nil {
		return k, nil // unknown keys are a failure of the signature, not of the request
	}
	var got keysReply
	if json.Unmarshal(raw, &got) != nil {
		return k, nil
	}
	if key, err := readCrossKey(got.Master[user], user, usageMaster); err == nil {
		k.cross[usageMaster], k.public[usageMaster] = key.canonical, key.public
	}
	return k, nil
}

var (
	errUnknownKey = mxerror.NotFound.With("there is no such key")
	errNotTheKey  = mxerror.InvalidParam.With("the object differs from the key that is stored")
)

// check finds the valid new signatures of user on one object of target. The object must be the stored key but for its signatures.
func check(user id.User, own *userKeys, target id.User, theirs *userKeys, name string, object jsontext.Value) ([]signature, error) {
	canonical, err := canonicaljson.CanonicalLax(object)
	if err != nil || object.Kind() != '{' {
		return nil, mxerror.BadJSON.With("the signed object is no JSON object")
	}
	stored, device := theirs.cross[usageMaster], id.Device("")
	if name != theirs.public[usageMaster] || stored == nil {
		d, ok := theirs.devices[id.Device(name)]
		if !ok || target != user {
			return nil, errUnknownKey
		}
		stored, device = d.keys, id.Device(name)
	}
	if !bytes.Equal(signing.Payload(canonical), signing.Payload(stored)) {
		return nil, errNotTheKey
	}
	var k struct {
		Signatures signatures `json:"signatures"`
	}
	if err := json.Unmarshal(canonical, &k); err != nil {
		return nil, mxerror.BadJSON.With("signatures: wrong type")
	}
	var found []signature
	for key, sig := range k.Signatures[user] {
		if canonicaljson.GetString(stored, "signatures", string(user), string(key)) == sig {
			continue // it was there before
		}
		if !signedBy(canonical, user, key, signerKey(own, target == user, device, key)) {
			return nil, errInvalidSignature
		}
		found = append(found, signature{target: name, signer: user, key: key, signature: sig})
	}
	if len(found) == 0 && len(k.Signatures[user]) == 0 {
		return nil, errInvalidSignature.With("the object carries no signature of yours")
	}
	return found, nil
}

// signerKey is the public key that may have made a signature: the self-signing key on one's devices, one's devices on one's master key, the
// user-signing key on other people's master keys.
func signerKey(own *userKeys, self bool, device id.Device, key id.KeyID) string {
	usage := usageSelfSigning
	if !self {
		usage = usageUserSigning
	} else if device == "" {
		usage = ""
	}
	if usage != "" {
		if public := own.public[usage]; public != "" && key == id.KeyID("ed25519:"+public) {
			return public
		}
		if !self {
			return ""
		}
	}
	d, ok := own.devices[id.Device(key.Name())]
	if !ok || device != "" && id.Device(key.Name()) != device {
		return ""
	}
	return canonicaljson.GetString(d.keys, "keys", string(key))
}
