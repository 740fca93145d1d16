// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/pool/model_identity.h"

#include <string>

#include "gtest/gtest.h"

namespace tf_model_pool {
namespace {

struct Row {
  const char* prefix;
  const char* model_dir;
  const char* version;
  const char* name;
};

class IdentityTest : public ::testing::TestWithParam<Row> {};

TEST_P(IdentityTest, FollowsFromThePrefixAlone) {
  const Row& row = GetParam();
  const ModelIdentity identity = IdentityFromCheckpointPrefix(row.prefix);
  EXPECT_EQ(identity.model_dir, row.model_dir) << row.prefix;
  EXPECT_EQ(identity.version, row.version) << row.prefix;
  EXPECT_EQ(identity.Name(), row.name) << row.prefix;
}

INSTANTIATE_TEST_SUITE_P(
    VersionedSavedModels, IdentityTest,
    ::testing::Values(
        Row{"/m/ctr/3/variables/variables", "/m/ctr", "3", "ctr/3"},
        Row{"/m/ctr/00000123/variables/variables", "/m/ctr", "00000123",
            "ctr/00000123"},
        Row{"/m/ctr/v3.1/variables/variables", "/m/ctr", "v3.1", "ctr/v3.1"},
        Row{"/m/ctr/20260101-rc_1/variables/variables", "/m/ctr",
            "20260101-rc_1", "ctr/20260101-rc_1"},
        Row{"models/ctr/3/variables/variables", "models/ctr", "3", "ctr/3"},
        Row{"ctr/3/variables/variables", "ctr", "3", "ctr/3"},
        Row{"./ctr/3/variables/variables", "ctr", "3", "ctr/3"},
        Row{"../ctr/3/variables/variables", "../ctr", "3", "ctr/3"},
        Row{"3/variables/variables", ".", "3", "3"},
        Row{"/3/variables/variables", "/", "3", "3"}));

INSTANTIATE_TEST_SUITE_P(
    UnversionedSavedModels, IdentityTest,
    ::testing::Values(
        Row{"/m/ranker/variables/variables", "/m/ranker", "", "ranker"},
        Row{"/m/v/variables/variables", "/m/v", "", "v"},
        Row{"/m/vx1/variables/variables", "/m/vx1", "", "vx1"},
        Row{"/m/V3/variables/variables", "/m/V3", "", "V3"},
        Row{"/m/latest/variables/variables", "/m/latest", "", "latest"},
        Row{"ranker/variables/variables", "ranker", "", "ranker"},
        Row{"variables/variables", ".", "", "."},
        Row{"/variables/variables", "/", "", "/"},
        Row{"/m/3/variables/variables/variables", "/m/3/variables", "",
            "variables"}));

INSTANTIATE_TEST_SUITE_P(
    OtherCheckpoints, IdentityTest,
    ::testing::Values(Row{"/train/ckpt-500", "/train", "ckpt-500",
                          "train/ckpt-500"},
                      Row{"/m/ctr/3/variables/other", "/m/ctr/3/variables",
                          "other", "variables/other"},
                      Row{"/m/ctr/3/other/variables", "/m/ctr/3/other",
                          "variables", "other/variables"},
                      Row{"ckpt-500", ".", "ckpt-500", "ckpt-500"},
                      Row{"./ckpt-500", ".", "ckpt-500", "ckpt-500"},
                      Row{"/ckpt-500", "/", "ckpt-500", "ckpt-500"},
                      Row{"variables", ".", "variables", "variables"}));

INSTANTIATE_TEST_SUITE_P(
    RemoteFileSystems, IdentityTest,
    ::testing::Values(Row{"gs://bucket/m/ctr/3/variables/variables",
                          "gs://bucket/m/ctr", "3", "ctr/3"},
                      Row{"gs://bucket/ctr/3/variables/variables",
                          "gs://bucket/ctr", "3", "ctr/3"},
                      Row{"gs://bucket//ctr/3//variables/variables",
                          "gs://bucket/ctr", "3", "ctr/3"},
                      Row{"gs://bucket/ckpt-5", "gs://bucket", "ckpt-5",
                          "bucket/ckpt-5"},
                      Row{"gs://bucket", "gs://", "bucket", "bucket"},
                      Row{"hdfs:///m/ctr/3/variables/variables", "hdfs://m/ctr",
                          "3", "ctr/3"}));

INSTANTIATE_TEST_SUITE_P(
    UncleanPaths, IdentityTest,
    ::testing::Values(
        Row{"/m/ctr/3/variables/variables/", "/m/ctr", "3", "ctr/3"},
        Row{"/m//ctr///3/variables//variables", "/m/ctr", "3", "ctr/3"},
        Row{"//m/ctr/3/variables/variables", "/m/ctr", "3", "ctr/3"},
        Row{"/m/./ctr/3/./variables/variables", "/m/ctr", "3", "ctr/3"},
        Row{"/train/ckpt-500//", "/train", "ckpt-500", "train/ckpt-500"},
        Row{"", "", "", ""}, Row{"/", "/", "", "/"}, Row{"//", "//", "", "//"},
        Row{".", ".", "", "."}, Row{"gs://", "gs://", "", "gs://"}));

TEST(ModelIdentityTest, SameNameInDifferentDirectoriesIsNotTheSameModel) {
  const ModelIdentity a =
      IdentityFromCheckpointPrefix("/a/ctr/3/variables/variables");
  const ModelIdentity b =
      IdentityFromCheckpointPrefix("/b/ctr/3/variables/variables");
  EXPECT_EQ(a.Name(), b.Name());
  EXPECT_FALSE(a == b);
}

TEST(ModelIdentityTest, SpellingOfThePathDoesNotMatter) {
  EXPECT_TRUE(IdentityFromCheckpointPrefix("/m/ctr/3/variables/variables") ==
              IdentityFromCheckpointPrefix("/m//ctr/./3/variables/variables/"));
}

}  // namespace
}  // namespace tf_model_pool
