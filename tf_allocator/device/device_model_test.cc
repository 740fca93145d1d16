// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/device/device_model.h"

#include <string>

#include "gtest/gtest.h"

namespace tensorflow {
namespace {

constexpr char kFirst[] = "/m/ctr/1/variables/variables";
constexpr char kSecond[] = "/m/ctr/2/variables/variables";

// Each test has incarnations of its own: the map is the process's.
std::string Model(uint64_t incarnation) {
  size_t bytes;
  return TakeDeviceModel(incarnation, &bytes);
}

TEST(DeviceModelTest, ADeviceThatNobodyNamedBelongsToNone) {
  size_t bytes = 7;
  EXPECT_EQ(TakeDeviceModel(100, &bytes), "");
  EXPECT_EQ(bytes, 0u);
}

TEST(DeviceModelTest, BytesOfConstantsAreToldOnce) {
  SetDeviceModel(200, kFirst, 4096);
  size_t bytes;
  EXPECT_EQ(TakeDeviceModel(200, &bytes), kFirst);
  EXPECT_EQ(bytes, 4096u);
  EXPECT_EQ(TakeDeviceModel(200, &bytes), kFirst);
  EXPECT_EQ(bytes, 0u);
}

TEST(DeviceModelTest, DevicesAreKeptApart) {
  SetDeviceModel(300, kFirst, 0);
  SetDeviceModel(301, kSecond, 0);
  EXPECT_EQ(Model(300), kFirst);
  EXPECT_EQ(Model(301), kSecond);
}

TEST(DeviceModelTest, AForgottenDeviceBelongsToNoneAndOthersStay) {
  SetDeviceModel(400, kFirst, 0);
  SetDeviceModel(401, kSecond, 0);
  ForgetDevice(400);
  ForgetDevice(499);
  EXPECT_EQ(Model(400), "");
  EXPECT_EQ(Model(401), kSecond);
}

TEST(DeviceModelTest, ADeviceOfTwoLoadedVersionsBelongsToNoneForGood) {
  SetDeviceModel(500, kFirst, 0);
  SetDeviceModel(500, kSecond, 0);
  EXPECT_EQ(Model(500), "");
  SetDeviceModel(500, kSecond, 0);
  EXPECT_EQ(Model(500), "");
}

TEST(DeviceModelTest, TheSameVersionOnAnotherPathIsTheSame) {
  SetDeviceModel(600, kFirst, 0);
  SetDeviceModel(600, "/m//ctr/./1/variables/variables", 0);
  EXPECT_NE(Model(600), "");
}

TEST(DeviceModelTest, RestoresNameADeviceUntilTheyDisagree) {
  NoteDeviceRestore(700, kFirst);
  NoteDeviceRestore(700, kFirst);
  EXPECT_EQ(Model(700), kFirst);
  NoteDeviceRestore(700, kSecond);
  EXPECT_EQ(Model(700), "");
  NoteDeviceRestore(700, kSecond);
  EXPECT_EQ(Model(700), "");
}

TEST(DeviceModelTest, ALoadOutranksRestores) {
  NoteDeviceRestore(800, kFirst);
  SetDeviceModel(800, kSecond, 0);
  EXPECT_EQ(Model(800), kSecond);
  // Such as a checkpoint that the graph warm-starts from.
  NoteDeviceRestore(800, kFirst);
  EXPECT_EQ(Model(800), kSecond);
}

TEST(DeviceModelTest, TheOldestIsDroppedBeyondTheBound) {
  SetDeviceModel(1000, kFirst, 0);
  for (uint64_t i = 1; i <= kMaxDeviceModels; ++i) {
    SetDeviceModel(1000 + i, kSecond, 0);
  }
  EXPECT_EQ(Model(1000), "");
  EXPECT_EQ(Model(1001), kSecond);
  EXPECT_EQ(Model(1000 + kMaxDeviceModels), kSecond);
}

}  // namespace
}  // namespace tensorflow
