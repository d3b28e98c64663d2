# The few functions that declare targets. Includes are always from the repository root.
include(GoogleTest)

# choir_library(NAME SOURCES a.cc ... [PUBLIC deps...] [PRIVATE deps...])
function(choir_library name)
  cmake_parse_arguments(A "" "" "SOURCES;PUBLIC;PRIVATE" ${ARGN})
  if(A_SOURCES)
    add_library(${name} STATIC ${A_SOURCES})
    target_include_directories(${name} PUBLIC "${CMAKE_SOURCE_DIR}")
    target_link_libraries(${name} PUBLIC ${A_PUBLIC} PRIVATE ${A_PRIVATE})
  else()
    add_library(${name} INTERFACE)
    target_include_directories(${name} INTERFACE "${CMAKE_SOURCE_DIR}")
    target_link_libraries(${name} INTERFACE ${A_PUBLIC})
  endif()
endfunction()

# choir_binary(NAME SOURCES a.cc ... DEPS deps...)
function(choir_binary name)
  cmake_parse_arguments(A "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${A_SOURCES})
  target_link_libraries(${name} PRIVATE ${A_DEPS})
endfunction()

# choir_test(NAME [COMPUTES] SOURCES a_test.cc ... DEPS deps... [TIMEOUT seconds]): one GoogleTest binary, each TEST a ctest.
# With sanitizers its own files are not optimized, which halves the time that they take to compile, unless it COMPUTES much.
function(choir_test name)
  cmake_parse_arguments(A "COMPUTES" "TIMEOUT" "SOURCES;DEPS" ${ARGN})
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 120)
  endif()
  add_executable(${name} ${A_SOURCES})
  target_link_libraries(${name} PRIVATE ${A_DEPS} GTest::gmock GTest::gtest GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE CHOIR_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  if(CHOIR_SANITIZE AND NOT A_COMPUTES)
    target_compile_options(${name} PRIVATE -O0)
  endif()
  gtest_discover_tests(${name} TEST_PREFIX "${name}." DISCOVERY_MODE PRE_TEST
    PROPERTIES TIMEOUT ${A_TIMEOUT})
endfunction()

# choir_proto_library(NAME ROOT dir PROTOS a/b.proto ...): messages and gRPC services.
function(choir_proto_library name)
  cmake_parse_arguments(A "" "ROOT" "PROTOS" ${ARGN})
  get_filename_component(root "${A_ROOT}" ABSOLUTE)
  set(out "${CMAKE_CURRENT_BINARY_DIR}/${name}_gen")
  file(MAKE_DIRECTORY "${out}")
  foreach(proto IN LISTS A_PROTOS)
    string(REGEX REPLACE "\\.proto$" "" stem "${proto}")
    set(gen "${out}/${stem}.pb.cc" "${out}/${stem}.pb.h" "${out}/${stem}.grpc.pb.cc" "${out}/${stem}.grpc.pb.h")
    add_custom_command(OUTPUT ${gen}
      COMMAND protobuf::protoc -I "${root}" --cpp_out=${out} --grpc_out=${out}
              --plugin=protoc-gen-grpc=$<TARGET_FILE:gRPC::grpc_cpp_plugin> "${root}/${proto}"
      DEPENDS "${root}/${proto}" VERBATIM)
    list(APPEND sources ${gen})
  endforeach()
  add_library(${name} STATIC ${sources})
  target_include_directories(${name} SYSTEM PUBLIC "${out}")
  target_link_libraries(${name} PUBLIC gRPC::grpc++ protobuf::libprotobuf)
endfunction()
