// SPDX-License-Identifier: Apache-2.0

package limits

import (
	"context"
	"errors"
	"fmt"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Tenants fills an empty database with n tenants and returns their server names.
func Tenants(ctx context.Context, url string, n int) (_ []string, err error) {
	db, err := database.Open(ctx, database.Options{URL: url})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	names, specs := make([]string, n), make([]tenant.Spec, n)
	for i := range n {
		names[i] = fmt.Sprintf("praxis-%d.localhost", i)
		specs[i] = tenant.Spec{Name: id.Server(names[i]), DisplayName: fmt.Sprintf("Praxis %d", i)}
	}
	_, err = tenant.NewStore(db).CreateAll(ctx, specs)
	return names, err
}
