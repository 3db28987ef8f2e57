// SPDX-License-Identifier: Apache-2.0

package permission

import (
	"fmt"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// The account data types of the permission configuration (A_25044, A_25258).
const (
	ConfigTypePro = "de.gematik.tim.account.permissionconfig.pro.v1"
	ConfigTypeEPA = "de.gematik.tim.account.permissionconfig.epa.v1"
)

// ConfigType is the type that a tenant's users have.
func ConfigType(t *tenant.Tenant) string {
	if t.Insurance {
		return ConfigTypeEPA
	}
	return ConfigTypePro
}

// The default settings.
const (
	AllowAll = "allow all"
	BlockAll = "block all"
)

// groupInsured is the one group of the Pro configuration: users of servers with isInsurance (A_26390).
const groupInsured = "isInsuredPerson"

// Config is a user's permission configuration: a default and the exceptions that invert it, in any order of match (A_25043).
type Config struct {
	DefaultSetting   string                    `json:"defaultSetting"`
	ServerExceptions map[string]jsontext.Value `json:"serverExceptions,omitempty"`
	UserExceptions   map[string]jsontext.Value `json:"userExceptions,omitempty"`
	GroupExceptions  []Group                   `json:"groupExceptions,omitempty"`
}

// Group is an exception for a group of users.
type Group struct {
	Name string `json:"groupName"`
}

// ParseConfig reads a configuration by the published schema: a wrong type, value or group makes it malformed. Members that the schema does not
// know are allowed by it and mean nothing; they must not turn "block all" into the operator's default. insurance chooses the ePA schema, which
// does not know groups.
func ParseConfig(raw jsontext.Value, insurance bool) (Config, error) {
	var c Config
	if err := json.Unmarshal(raw, &c); err != nil {
		return Config{}, fmt.Errorf("permission configuration: %w", err)
	}
	if c.DefaultSetting != AllowAll && c.DefaultSetting != BlockAll {
		return Config{}, fmt.Errorf("permission configuration: defaultSetting %q is neither %q nor %q", c.DefaultSetting, AllowAll, BlockAll)
	}
	for user := range c.UserExceptions {
		if !strings.HasPrefix(user, "@") {
			return Config{}, fmt.Errorf("permission configuration: %q is not a user id", user)
		}
	}
	for _, exceptions := range []map[string]jsontext.Value{c.UserExceptions, c.ServerExceptions} {
		for name, value := range exceptions {
			if value.Kind() != '{' {
				return Config{}, fmt.Errorf("permission configuration: the exception %q is not an object", name)
			}
		}
	}
	if insurance {
		c.GroupExceptions = nil
		return c, nil
	}
	for _, g := range c.GroupExceptions {
		if g.Name != groupInsured {
			return Config{}, fmt.Errorf("permission configuration: group %q is not known", g.Name)
		}
	}
	return c, nil
}

// Allows says whether somebody may invite the configuration's owner; insured says whether the inviter's server has isInsurance. Any exception that
// matches inverts the default.
func (c Config) Allows(inviter id.User, insured bool) bool {
	_, exception := c.UserExceptions[string(inviter)]
	if _, server := c.ServerExceptions[string(inviter.Server())]; server {
		exception = true
	}
	for _, g := range c.GroupExceptions {
		exception = exception || (g.Name == groupInsured && insured)
	}
	return (c.DefaultSetting == AllowAll) != exception
}
