// SPDX-License-Identifier: Apache-2.0

package oauth

import "slices"

// The actions of the account page (client-server API, "Account management URL actions"). changePassword is our own.
const (
	actionProfile        = "org.matrix.profile"
	actionDevices        = "org.matrix.devices_list"
	actionDeviceView     = "org.matrix.device_view"
	actionDeviceDelete   = "org.matrix.device_delete"
	actionDeactivate     = "org.matrix.account_deactivate"
	actionCrossSigning   = "org.matrix.cross_signing_reset"
	actionChangePassword = "password"
)

// actionNames are those that the metadata announces.
var actionNames = []string{actionProfile, actionDevices, actionDeviceView, actionDeviceDelete, actionDeactivate, actionCrossSigning}

// formerActions are names from before the actions were specified, which clients still use.
var formerActions = map[string]string{
	"profile":                  actionProfile,
	"sessions_list":            actionDevices,
	"org.matrix.sessions_list": actionDevices,
	"session_view":             actionDeviceView,
	"org.matrix.session_view":  actionDeviceView,
	"session_end":              actionDeviceDelete,
	"org.matrix.session_end":   actionDeviceDelete,
	"account_deactivate":       actionDeactivate,
	"cross_signing_reset":      actionCrossSigning,
}

// allActionNames are the announced ones with their former names, for clients that look for those.
func allActionNames() []string {
	all := slices.Clone(actionNames)
	for former := range formerActions {
		all = append(all, former)
	}
	slices.Sort(all)
	return all
}

// action translates the name that a client uses; unknown ones lead to the start page.
func action(name string) string {
	if now, ok := formerActions[name]; ok {
		return now
	}
	return name
}
