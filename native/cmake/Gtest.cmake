# GTest::gtest_main for the tests, from the sources in third_party/googletest: nothing to install, nothing to fetch.
add_library(gtest_main STATIC ${PROJECT_SOURCE_DIR}/third_party/googletest/src/gtest-all.cc
                              ${PROJECT_SOURCE_DIR}/third_party/googletest/src/gtest_main.cc)
add_library(GTest::gtest_main ALIAS gtest_main)
target_include_directories(gtest_main SYSTEM PUBLIC ${PROJECT_SOURCE_DIR}/third_party/googletest/include)
target_include_directories(gtest_main PRIVATE ${PROJECT_SOURCE_DIR}/third_party/googletest)
find_package(Threads REQUIRED)
target_link_libraries(gtest_main PUBLIC Threads::Threads)
