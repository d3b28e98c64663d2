# How everything is compiled. Nothing here knows a source file.
option(CHOIR_TESTS "build the tests" ON)
option(CHOIR_FUZZ "build the libFuzzer targets (clang)" OFF)
set(CHOIR_SANITIZE "" CACHE STRING "sanitizers, as for -fsanitize= (empty: none)")

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -g1 -DNDEBUG")
set(CMAKE_CXX_FLAGS_DEV "-O1 -g1")

# Exact results are a feature: the compiler may not fuse or reorder floating-point operations.
add_compile_options(-Wall -Wextra -Wno-missing-field-initializers -Wno-maybe-uninitialized -Wno-restrict -Werror=return-type -Werror=unused-result -ffp-contract=off)

if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  add_compile_options(-Wno-unknown-warning-option -Wno-unused-command-line-argument)
endif()

if(CHOIR_SANITIZE)
  add_compile_options(-fsanitize=${CHOIR_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=undefined,float-cast-overflow)
  add_link_options(-fsanitize=${CHOIR_SANITIZE})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    add_compile_options(-fno-sanitize=function)  # Clang 14 cannot assemble coroutines with it
  endif()
endif()

find_program(CHOIR_CCACHE ccache)
if(CHOIR_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env
      CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${CHOIR_CCACHE})
endif()
find_program(CHOIR_MOLD mold)
if(CHOIR_MOLD)
  add_link_options(-fuse-ld=mold)
endif()
